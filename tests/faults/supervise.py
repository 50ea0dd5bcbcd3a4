#!/usr/bin/env python3
"""`ebb run` and `ebb scale`: what happens to the ranks and to the supervisor changes no bit of the model and leaves nothing behind.

Usage: supervise.py [CASE ...]"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbtest as t

STEPS = 800
RUN = """
data: {{train: {folder}/{kind}/train, valid: {folder}/{kind}/valid, block_rows: 16, window_blocks: 4, memory: 64MiB}}
lanes: 8
model: {{layers: [{{linear: {{out: 9}}}}, {{relu: {{}}}}, {{dropout: {{p: 0.2}}}}, {{linear: {{}}}}]}}
train: {{epochs: 1000, max_steps: %d, batch: 31, threads: 1, optimizer: {{adam: {{lr: 0.01}}}}}}
checkpoint: {{every_steps: 15}}
run: {{dir: {folder}/runs}}
""" % STEPS
LAUNCHER = "mpirun --quiet --bind-to none"
# As support/mpirun does for the other tests.
ENV = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
       "HWLOC_COMPONENTS": os.environ.get("HWLOC_COMPONENTS", "-gl"), "HWLOC_HIDE_ERRORS": "2",
       "ASAN_OPTIONS": "detect_leaks=0:" + os.environ.get("ASAN_OPTIONS", "")}


def make_data(folder):
    t.sparse_data(f"{folder}/rows.svm", 1203, 3001, 12, 3, 1)
    t.dense_data(folder, 1203, 24, 3, 2)
    t.run(["pack", "-q", f"{folder}/rows.svm", f"{folder}/sparse", "--split", "train=0.8,valid=0.2"])
    t.run(["pack", "-q", f"{folder}/x.npy", f"{folder}/dense", "--target", f"{folder}/y.npy", "--split", "train=0.8,valid=0.2"])
    for kind in "sparse", "dense":
        with open(f"{folder}/{kind}.yaml", "w") as f:
            f.write(RUN.format(folder=folder, kind=kind))


def fingerprint(run_dir):
    record = t.record(run_dir)
    return tuple(record.get(key) for key in ("outcome", "steps", "weights_sha256", "optimizer_sha256"))


def whole(folder, kind, steps=STEPS):
    """What the run comes to when nothing happens to it."""
    run_dir = f"{folder}/runs/whole-{kind}-{steps}"
    if not os.path.exists(f"{run_dir}/model.h5"):
        t.run(["train", "-q", f"{folder}/{kind}.yaml", "--set", f"run.name={os.path.basename(run_dir)}", "--set", f"train.max_steps={steps}", "--set", "train.epochs=100000000",
               "--set", "checkpoint.every_steps=0"])
    return fingerprint(run_dir)


# ---- processes ----

def stat(pid):
    """State, parent and session of a process; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()
    except OSError:
        return None


def descendants(root):
    children = {}
    for name in os.listdir("/proc"):
        fields = stat(name) if name.isdigit() else None
        if fields and fields[0] not in "ZX":
            children.setdefault(int(fields[1]), []).append(int(name))
    found, todo = [], [root]
    while todo:
        todo += children.get(todo[0], [])
        found += children.get(todo.pop(0), [])
    return found


def command_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as f:
            return f.read().split("\0")
    except OSError:
        return []


def runs_here(folder):
    """Processes that have to do with the folder: named in their command line, or working in it."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid() and stat(name) and stat(name)[0] not in "ZX":
            if any(folder in word for word in command_of(name)):
                found.append(int(name))
    return found


def shared_memory(pid):
    """What a supervisor has in shared memory, which Open MPI's session folders are part of."""
    found = []
    for base in "/dev/shm", "/tmp":
        for name in os.listdir(base):
            try:
                with open(f"{base}/{name}/lock") as f:
                    if name.startswith(f"ebb-{os.getuid()}-") and f"pid {pid} " in f.read():
                        found.append(f"{base}/{name}")
            except OSError:
                pass
    return found


class Supervised:
    """`ebb run` in the background."""

    def __init__(self, folder, name, kind="sparse", ranks=3, extra=(), words=None, env=None):
        self.folder, self.name, self.kind = folder, name, kind
        self.run_dir = f"{folder}/runs/{name}"
        args = words or [t.EBB, "run", "--ranks", str(ranks), "--name", name, "--log-every", "1", *extra, f"{folder}/{kind}.yaml"]
        self.log = f"{folder}/{name}.log"
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **ENV, **(env or {})})

    def text(self):
        with open(self.log) as f:
            return f.read()

    def fail(self, why):
        self.process.send_signal(signal.SIGKILL)
        deadline = time.time() + 10
        while runs_here(self.run_dir) and time.time() < deadline:
            time.sleep(0.1)
        t.fail(f"{self.name}: {why}\n{self.text()[-3000:]}")

    def steps(self):
        try:
            with open(f"{self.run_dir}/metrics.jsonl") as f:
                return sum('"step":' in line for line in f)
        except OSError:
            return 0

    def wait_until(self, reached, what, seconds=60):
        deadline = time.time() + seconds
        while not reached():
            if self.process.poll() is not None:
                self.fail(f"ended with {self.process.returncode} before {what}")
            if time.time() > deadline:
                self.fail(f"did not come to {what}")
            time.sleep(0.002)

    def wait_step(self, step):
        self.wait_until(lambda: self.steps() >= step, f"step {step}")

    def ranks(self):
        """Process ids of the ranks, in no order."""
        found = []
        for pid in descendants(self.process.pid):
            words = command_of(pid)
            if len(words) > 1 and os.path.basename(words[0]) == "ebb" and words[1] == "train":
                found.append(pid)
        return found

    def scale(self, ranks, ok=True):
        done = subprocess.run([t.EBB, "scale", self.run_dir, "--ranks", str(ranks)], capture_output=True, text=True, timeout=60)
        if ok and done.returncode != 0:
            self.fail(f"scale to {ranks}: {done.returncode} {done.stdout}{done.stderr}")
        return done

    def end(self, code, seconds=60):
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.fail("hangs")
        if self.process.returncode != code:
            self.fail(f"exit code {self.process.returncode}, not {code}")
        self.leaves_nothing(0)
        return self.text()

    def leaves_nothing(self, seconds):
        deadline = time.time() + seconds
        while True:
            left = runs_here(self.run_dir) + shared_memory(self.process.pid)
            if not left:
                return
            if time.time() > deadline:
                t.fail(f"{self.name}: left behind {[(p, command_of(p)) if isinstance(p, int) else p for p in left]}\n{self.text()[-3000:]}")
            time.sleep(0.02)

    def is_same(self, want):
        if fingerprint(self.run_dir) != want:
            t.fail(f"{self.name}: the run differs\n  got  {fingerprint(self.run_dir)}\n  want {want}\n{self.text()[-3000:]}")


# ---- the cases ----

def killed_ranks(folder):
    """A rank is killed, then another: the run goes on with those that are left, and says so in run.json."""
    for kind in "sparse", "dense":
        job = Supervised(folder, f"killed-{kind}", kind)
        for at in 40, 250:
            job.wait_step(at)
            os.kill(job.ranks()[0], signal.SIGKILL)
            job.wait_until(lambda: "restart" in job.text().split("goes on")[-1], "its restart")
        told = job.end(0)
        job.is_same(whole(folder, kind))
        restarts = t.record(job.run_dir)["restarts"]
        if [(r["ranks_before"], r["ranks"]) for r in restarts] != [(3, 2), (2, 1)]:
            t.fail(f"{job.name}: restarts {restarts}")
        if any(r["step"] is None or r["step"] < 15 or "reason" not in r or not r["time"].startswith("20") for r in restarts):
            t.fail(f"{job.name}: restarts {restarts}")
        if "restart 1 on 2 ranks from step" not in told or "restart 2 on 1 rank from step" not in told:
            t.fail(f"{job.name}: does not tell\n{told}")


def resized(folder):
    job = Supervised(folder, "resized", ranks=1)
    job.wait_step(50)
    for ranks in 3, 2:
        told = job.scale(ranks).stdout
        if f"goes on with {ranks} ranks from step" not in told or len(job.ranks()) != ranks:
            job.fail(f"scale to {ranks} says {told}, and there are {len(job.ranks())}")
    if job.scale(9, ok=False).returncode != 69 or "has 2 ranks already" not in job.scale(2).stdout:
        job.fail("takes more ranks than lanes, or resizes to what it has")
    job.scale(0)
    if job.ranks() or "waits for ranks" not in subprocess.run([t.EBB, "scale", job.run_dir], capture_output=True, text=True).stdout:
        job.fail("does not wait without ranks")
    job.scale(2)
    job.end(0)
    job.is_same(whole(folder, "sparse"))
    if [r["ranks"] for r in t.record(job.run_dir)["resizes"]] != [3, 2, 0, 2]:
        t.fail(f"resizes {t.record(job.run_dir)['resizes']}")
    done = job.scale(2, ok=False)
    if done.returncode != 69 or "no supervisor is at work" not in done.stderr:
        t.fail(f"scaling a finished run: {done.returncode} {done.stderr}")


def paused(folder, number, name):
    job = Supervised(folder, name, ranks=2)
    job.wait_step(40)
    job.process.send_signal(number)
    if "paused at step" not in job.end(75, 20) or t.record(job.run_dir)["outcome"] != "stopped":
        job.fail("does not say that it paused")
    Supervised(folder, name, ranks=3).end(0)
    job.is_same(whole(folder, "sparse"))


def paused_by_terminate(folder):
    paused(folder, signal.SIGTERM, "paused-term")


def paused_by_interrupt(folder):
    paused(folder, signal.SIGINT, "paused-int")


def paused_at_any_moment(folder):
    """Also while the ranks start and the launcher would lose the signal."""
    for wait in 0, 0.3, 0.8:
        job = Supervised(folder, f"paused-{wait}", ranks=3)
        job.wait_until(lambda: os.path.exists(f"{job.run_dir}/supervisor.lock"), "its lock")
        time.sleep(wait)
        job.process.send_signal(signal.SIGUSR1)
        job.end(75, 30)
        Supervised(folder, job.name, ranks=2).end(0)
        job.is_same(whole(folder, "sparse"))


def by_a_rank(folder):
    """A signal to a rank pauses the run: exit 75 passes through."""
    job = Supervised(folder, "by-a-rank", ranks=2)
    job.wait_step(40)
    os.kill(job.ranks()[0], signal.SIGTERM)
    job.end(75, 20)


def ended_at_once(folder):
    """The second signal does not wait for a rank that stands still."""
    job = Supervised(folder, "at-once", ranks=2)
    job.wait_step(40)
    os.kill(job.ranks()[0], signal.SIGSTOP)
    job.process.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    job.process.send_signal(signal.SIGTERM)
    job.end(128 + signal.SIGTERM, 8)


def killed_supervisor(folder):
    """Either of its processes, its launcher, or both processes at once: nothing is left, and the same command goes on."""
    job = Supervised(folder, "killed-super", ranks=3)
    for victims in "outer", "inner", "both", "outer stopped":
        job.wait_step(1)
        job.wait_until(lambda: len(job.ranks()) == 3, "three ranks")
        outer, inner = job.process.pid, descendants(job.process.pid)[0]
        if victims == "outer stopped":
            os.kill(job.ranks()[1], signal.SIGSTOP)
        if victims in ("inner", "both"):
            os.kill(inner, signal.SIGKILL)
        if victims != "inner":
            os.kill(outer, signal.SIGKILL)
        code = job.process.wait(15)
        if victims == "both":  # the launcher is told by the kernel; shared memory is swept by the next supervisor
            deadline = time.time() + 10
            while runs_here(job.run_dir) and time.time() < deadline:
                time.sleep(0.05)
            if runs_here(job.run_dir):
                job.fail(f"left {[(p, command_of(p)) for p in runs_here(job.run_dir)]}")
        else:
            job.leaves_nothing(10)
        if code != (69 if victims == "inner" else -signal.SIGKILL):
            job.fail(f"{victims}: exit code {code}")
        done = job.scale(2, ok=False)
        if done.returncode != 69 or "no supervisor is at work" not in done.stderr:
            t.fail(f"scaling what a dead supervisor left: {done.returncode} {done.stderr}")
        job = Supervised(folder, "killed-super", ranks=3)
    job.end(0)
    job.is_same(whole(folder, "sparse"))


def killed_launcher(folder):
    job = Supervised(folder, "killed-launcher", ranks=3)
    job.wait_step(40)
    launcher = int(stat(job.ranks()[0])[1])
    os.kill(launcher, signal.SIGKILL)
    told = job.end(0)
    job.is_same(whole(folder, "sparse"))
    if "launcher died of SIGKILL; restart 1 on 3 ranks" not in told:
        t.fail(f"killed_launcher: {told}")


def stopped_alone(folder):
    """One rank has no watchdog among ranks: the supervisor sees that it is stopped."""
    job = Supervised(folder, "stopped-alone", ranks=1, extra=["--set", "run.watchdog=2"])
    job.wait_step(40)
    os.kill(job.ranks()[0], signal.SIGSTOP)
    if "was stopped; restart 1 on 1 rank" not in job.end(0, 30):
        t.fail("stopped_alone: not told")
    job.is_same(whole(folder, "sparse"))


def given_up(folder):
    """Restarts that get nowhere come to an end."""
    start = time.time()
    job = Supervised(folder, "given-up", words=[t.EBB, "run", "--name", "given-up", "--dir", f"{folder}/runs/given-up", "--max-restarts", "2",
                                               "--", "sh", "-c", "echo once >> $0; kill -9 $$", f"{folder}/times"])
    told = job.end(69, 20)
    with open(f"{folder}/times") as f:
        times = len(f.readlines())
    if times != 3 or "given up after 2 restarts without a newer checkpoint (there is none): a rank died of SIGKILL" not in told:
        t.fail(f"given_up: started {times} times in {time.time() - start:.1f} s\n{told}")


def refused(folder):
    """What would only fail again is not tried again."""
    def ends(code, words, *pieces):
        done = subprocess.run([t.EBB, "run", *words], capture_output=True, text=True, timeout=30, env={**os.environ, **ENV})
        if done.returncode != code or any(p not in done.stderr for p in pieces):
            t.fail(f"ebb run {words}: {done.returncode}\n{done.stdout}{done.stderr}")
        if "restart 1" in done.stderr:
            t.fail(f"ebb run {words}: was restarted\n{done.stderr}")

    run = f"{folder}/sparse.yaml"
    whole(folder, "sparse", 20)
    ends(64, ["--ranks", "9", run], "has 8 lanes")
    ends(64, ["--set", "train.batsh=3", run], "train.batch")
    ends(66, ["--name", "no-data", "--set", f"data.train={folder}/absent", run])
    ends(64, ["--name", f"whole-sparse-20", "--set", "train.max_steps=20", run], "holds a finished run")
    ends(69, ["--dir", f"{folder}/runs/no-command", "--", f"{folder}/no-command", "x"], "cannot be started")
    job = Supervised(folder, "twice", ranks=1, extra=["--set", "run.watchdog=60"])
    job.wait_step(5)
    rank = job.ranks()[0]
    os.kill(rank, signal.SIGSTOP)  # it must not be finished before the other comes
    ends(64, ["--name", "twice", run], "in use by process")
    os.kill(rank, signal.SIGCONT)
    job.process.send_signal(signal.SIGTERM)
    job.end(75)
    ends(64, ["--name", "twice", "--set", "train.seed=7", run], "(train.seed differs)")
    job = Supervised(folder, "twice", ranks=1, extra=["--set", "checkpoint.every_steps=7"])  # changes no number: taken over
    job.wait_until(job.ranks, "its rank")
    job.process.send_signal(signal.SIGTERM)
    job.end(75)
    if t.record(job.run_dir)["config"]["checkpoint"]["every_steps"] != 7:
        t.fail("refused: another checkpoint.every_steps is not taken over")
    t.run(["run", "-q", "--name", "twice", "--force", "--set", "train.max_steps=20", run])
    t.run(["run", "-q", "--resume", f"{folder}/runs/twice", "--set", f"train.max_steps={STEPS}"])
    job.is_same(whole(folder, "sparse"))


CASES = [killed_ranks, resized, paused_by_terminate, paused_by_interrupt, paused_at_any_moment, by_a_rank, ended_at_once, killed_supervisor,
         killed_launcher, stopped_alone, given_up, refused]


def main():
    names = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="ebb-super-") as folder:
        make_data(folder)
        cases = [case for case in CASES if not names or case.__name__ in names]
        for case in cases:
            start = time.time()
            case(folder)
            print(f"ok {case.__name__} {time.time() - start:.1f} s", flush=True)
    print(f"{len(cases)} passed, 0 failed")


if __name__ == "__main__":
    main()
