#!/usr/bin/env python3
"""Two hosts in one MPI job, made of namespaces (network, host name, mounts, shared memory; the second also processes) joined by a veth pair. The link is cut in mid-step, silently or
with the interface going down: both sides end within 15 s and leave no process behind, and the run goes on to the same bits, on the host that is left or on
both again. Usage: two_hosts.py [CASE ...]"""
import os
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ebbtest as t
import stopping

LIMIT = 15  # seconds, as measured; a busy machine may take longer, and no case fails by it
APART = ["--pid", "--fork", "--kill-child", "--mount-proc"]  # processes of its own, so that nobody can kill them from the other host


def tell(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Host:
    """Namespaces held open by one process."""

    def __init__(self, folder, name, address, link, apart):
        self.name, self.address, self.link = name, address, link
        setup = f"mount -t tmpfs none /dev/shm && mount --bind {folder}/hosts /etc/hosts && hostname {name} && ip link set lo up && echo ready && exec sleep 100000"
        self.holder = subprocess.Popen(["unshare", "--net", "--uts", "--ipc", "--mount", *apart, "sh", "-c", setup],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self.holder.stdout.readline() != "ready\n":
            raise OSError(self.holder.communicate()[1].strip())
        self.first, self.apart = str(self.holder.pid), apart
        if apart:
            with open(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children") as f:
                self.first = f.read().split()[0]

    def inside(self, *command):
        return ["nsenter", "-t", self.first, "-n", "-u", "-i", "-m", *(["-p"] if self.apart else []), *command]

    def connect(self):
        tell("ip", "link", "set", self.link, "netns", self.first)
        tell(*self.inside("ip", "addr", "add", f"{self.address}/24", "dev", self.link))
        tell(*self.inside("ip", "link", "set", self.link, "up"))

    def kill_all(self):
        for pid in self.processes():
            os.kill(int(pid), signal.SIGKILL)

    def processes(self):
        """All processes on this network but the holders: their commands."""
        network, found = os.readlink(f"/proc/{self.first}/ns/net"), {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if pid not in (self.first, str(self.holder.pid)) and os.readlink(f"/proc/{pid}/ns/net") == network:
                    with open(f"/proc/{pid}/cmdline", "rb") as f:
                        found[pid] = f.read().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                pass
        return {pid: args for pid, args in found.items() if args}

    def end(self):
        self.holder.kill()
        self.holder.wait()


class Pair:
    """The two hosts, joined."""

    def __init__(self, folder):
        self.hosts, self.folder = [], folder
        self.env = {**os.environ, "TMPDIR": f"{folder}/tmp"}  # a launcher that is killed leaves its own folder behind
        os.mkdir(f"{folder}/tmp")
        links = [f"ebb{os.getpid() % 100000}{end}" for end in "ab"]
        with open(f"{folder}/hosts", "w") as f:
            f.write("127.0.0.1 localhost\n10.77.0.1 ebbhosta\n10.77.0.2 ebbhostb\n")
        try:
            for i, link in enumerate(links):
                self.hosts.append(Host(folder, f"ebbhost{'ab'[i]}", f"10.77.0.{i + 1}", link, APART if i else []))
            tell("ip", "link", "add", links[0], "type", "veth", "peer", "name", links[1])
            for host in self.hosts:
                host.connect()
        except OSError:
            self.end()
            raise
        a, b = self.hosts
        with open(f"{folder}/agent", "w") as f:  # in place of ssh: HOST COMMAND...
            f.write(f'#!/bin/sh\n[ "$1" = {b.name} ] || exit 1\nshift\nexec {" ".join(b.inside())} sh -c "$*"\n')
        os.chmod(f"{folder}/agent", 0o755)

    def command(self, ranks, args):
        """mpirun on the first host; ranks of each."""
        a, b = self.hosts
        env = {k: v for k, v in os.environ.items() if k.startswith(("ASAN", "UBSAN", "TSAN", "LSAN"))}
        passed = [x for k in env for x in ("-x", k)]
        return a.inside(t.MPIRUN, str(sum(ranks)), "--host", f"{a.name}:{ranks[0]},{b.name}:{ranks[1]}", "--mca", "plm_rsh_agent", f"{self.folder}/agent",
                        "--mca", "btl", "self,vader,tcp", "--mca", "pml", "ob1", "--mca", "mpi_yield_when_idle", "1", "-x", "OMPI_MCA_btl_vader_single_copy_mechanism", "-x", "ASAN_OPTIONS", *passed, t.EBB, *args)

    def cut(self, how):
        for host, other in (self.hosts, self.hosts[::-1]):
            if how == "down":
                tell(*host.inside("ip", "link", "set", host.link, "down"))
            else:  # the frames go to a card that nobody has
                tell(*host.inside("ip", "neigh", "replace", other.address, "lladdr", "02:00:00:00:00:99", "dev", host.link, "nud", "permanent"))

    def mend(self, how):
        for host, other in (self.hosts, self.hosts[::-1]):
            if how == "down":
                tell(*host.inside("ip", "link", "set", host.link, "up"))
            else:
                tell(*host.inside("ip", "neigh", "del", other.address, "dev", host.link))

    def left(self):
        return [f"{h.name}: {p}" for h in self.hosts for p in h.processes().values()]

    def end(self):
        for host in self.hosts:
            host.end()


def train(pair, name, ranks, more=()):
    args = ["train", f"{pair.folder}/run.yaml", "--set", f"run.name={name}", "--log-every", "1", *more]
    return subprocess.Popen(pair.command(ranks, args), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=pair.env,
                            preexec_fn=t.with_us())


def lines(run_dir):
    try:
        with open(f"{run_dir}/metrics.jsonl") as f:
            return sum('"kind":"step"' in line for line in f)
    except OSError:
        return 0


def whole(pair):
    """Both hosts compute what one does."""
    job = train(pair, "both", (2, 2), ["--set", "train.max_steps=400"])
    err = job.communicate(timeout=stopping.PATIENCE)[1]
    if job.returncode != 0 or stopping.fingerprint(f"{pair.folder}/runs/both") != stopping.whole(pair.folder, 400):
        t.fail(f"both: exit code {job.returncode}\n{err}")
    hosts = t.record(f"{pair.folder}/runs/both")["starts"][0]["hosts"]
    if [h["host"] for h in hosts] != ["ebbhosta", "ebbhostb"]:
        t.fail(f"both: should be recorded as two hosts: {hosts}")


def is_cut(pair, how, ranks, then):
    name, run_dir = f"cut_{how}_{then}", f"{pair.folder}/runs/cut_{how}_{then}"
    job = train(pair, name, ranks, ["--set", "checkpoint.every_steps=15"])
    deadline = time.time() + stopping.PATIENCE
    while lines(run_dir) < 40:
        if job.poll() is not None or time.time() > deadline:
            job.kill()
            t.fail(f"{name}: did not come to step 40\n{job.communicate()[1]}")
        time.sleep(0.005)
    pair.cut(how)
    start = time.time()
    while pair.left() and time.time() - start < stopping.PATIENCE:
        time.sleep(0.1)
    seconds, left = time.time() - start, pair.left()
    for host in pair.hosts:
        host.kill_all()
    err = job.communicate(timeout=stopping.PATIENCE)[1]
    told = [line for line in err.replace("\r", "\n").splitlines() if "ebb: error: rank " in line]
    print(f"# {name}: {seconds:.1f} s{' (late)' if seconds > LIMIT else ''}, exit code {job.returncode}: {told[:1]}", flush=True)
    if left or job.returncode in (0, 75):
        t.fail(f"{name}: after {seconds:.1f} s left {left}, exit code {job.returncode}\n{err}")
    if not told or "ebbhostb" not in told[0]:
        t.fail(f"{name}: it should be told that a rank on ebbhostb does not answer\n{err}")
    pair.mend(how)
    steps = t.an_end(run_dir)
    args = ["train", "-q", "--resume", run_dir, "--set", "checkpoint.every_steps=0", "--set", f"train.max_steps={steps}"]
    if then == "alone":
        t.run(args, 2)
    else:
        done = subprocess.run(pair.command((1, 2), args), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=stopping.PATIENCE,
                              env=pair.env)
        if done.returncode != 0:
            t.fail(f"{name}: going on: exit code {done.returncode}\n{done.stderr}")
    if stopping.fingerprint(run_dir) != stopping.whole(pair.folder, steps):
        t.fail(f"{name}: gone on with, the run differs")


def cut_silent(pair):
    is_cut(pair, "silent", (2, 2), "alone")


def cut_down(pair):
    is_cut(pair, "down", (1, 2), "both")


LARGE = ["--set", "model={layers: [{linear: {out: 128}}, {relu: {}}, {linear: {out: 45000}}, {relu: {}}, {linear: {}}]}", "--set", "train.max_steps=12",
         "--set", "checkpoint.every_steps=3", "--set", "checkpoint.keep=4"]  # of 75 MB: large enough for each rank to write its share


def saves_large_ones(pair, name, told):
    """Checkpoints that are whole, and the model of one rank."""
    run_dir, alone = f"{pair.folder}/runs/{name}", f"{pair.folder}/runs/large-alone"
    job = train(pair, name, (1, 2), LARGE)
    err = job.communicate(timeout=stopping.PATIENCE)[1]
    if job.returncode != 0 or ("does not see" in err) != told:
        t.fail(f"{name}: exit code {job.returncode}, {'not told' if told else 'told'} that hosts see different folders\n{err}")
    if not os.path.exists(f"{alone}/model.h5"):
        t.run(["train", "-q", f"{pair.folder}/run.yaml", "--set", "run.name=large-alone", *LARGE], timeout=stopping.PATIENCE)
    if stopping.fingerprint(run_dir) != stopping.fingerprint(alone):
        t.fail(f"{name}: the run differs from that of one rank")
    t.run(["ckpt", "verify", run_dir])
    left = sorted(os.listdir(f"{run_dir}/checkpoints"))
    if left != [f"step-{step:09d}.h5" for step in (3, 6, 9, 12)]:
        t.fail(f"{name}: checkpoints {left}")


def shares(pair):
    """Each rank writes to the one file."""
    saves_large_ones(pair, "shares", False)


def no_shared_folder(pair):
    """The second host has a folder of its own in that place: the first one writes all."""
    b = pair.hosts[1]
    os.makedirs(f"{pair.folder}/runs", exist_ok=True)
    tell(*b.inside("mount", "-t", "tmpfs", "none", f"{pair.folder}/runs"))
    try:
        saves_large_ones(pair, "no-shared-folder", True)
    finally:
        tell(*b.inside("umount", f"{pair.folder}/runs"))


CASES = [whole, shares, no_shared_folder, cut_silent, cut_down]


def main():
    names = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="ebb-hosts-") as folder:
        try:
            pair = Pair(folder)
        except OSError as why:
            print(f"SKIPPED: namespaces with a network of their own are not permitted here: {why}")
            sys.exit(t.SKIP)
        try:
            t.sparse_data(f"{folder}/rows.svm", 1203, 3001, 12, 3, 1)
            t.run(["pack", "-q", f"{folder}/rows.svm", f"{folder}/data", "--split", "train=0.8,valid=0.2"])
            with open(f"{folder}/run.yaml", "w") as f:
                f.write(stopping.RUN.format(folder=folder))
            cases = [c for c in CASES if not names or c.__name__ in names]
            for case in cases:
                start = time.time()
                case(pair)
                print(f"ok {case.__name__} {time.time() - start:.1f} s", flush=True)
        finally:
            pair.end()
    print(f"{len(cases)} passed, 0 failed")


if __name__ == "__main__":
    main()
