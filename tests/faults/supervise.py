#!/usr/bin/env python3
"""`ebb run` and `ebb scale`: what happens to the ranks and to the supervisor changes no bit of the model and leaves nothing behind.

Runs have no end of their own, so that none is over before a case has done what it is about, on however fast a machine; at last they are paused, and
go on to an end a few steps further. Usage: supervise.py [CASE ...]"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbtest as t

PATIENCE = 300  # seconds, for whatever has to come in the end: no measure of anything
RUN = """
data: {{train: {folder}/{kind}/train, valid: {folder}/{kind}/valid, block_rows: 16, window_blocks: 4, memory: 64MiB}}
lanes: 8
model: {{layers: [{{linear: {{out: 9}}}}, {{relu: {{}}}}, {{dropout: {{p: 0.2}}}}, {{linear: {{}}}}]}}
train: {{epochs: 100000000, max_steps: 1000000000, batch: 31, threads: 1, optimizer: {{adam: {{lr: 0.01}}}}}}
checkpoint: {{every_steps: 15}}
run: {{dir: {folder}/runs}}
"""
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


def whole(folder, kind, steps):
    """What a run of so many steps comes to when nothing happens to it."""
    run_dir = f"{folder}/runs/whole-{kind}-{steps}"
    if not os.path.exists(f"{run_dir}/model.h5"):
        t.run(["train", "-q", f"{folder}/{kind}.yaml", "--set", f"run.name={os.path.basename(run_dir)}", "--set", f"train.max_steps={steps}",
               "--set", "checkpoint.every_steps=0"], timeout=2 * PATIENCE)
    return fingerprint(run_dir)


# ---- processes ----

def stat(pid):
    """State, parent and session of a process; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()
    except OSError:
        return None


def lives(pid):
    fields = stat(pid)
    return fields is not None and fields[0] not in "ZX"


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
        if name.isdigit() and int(name) != os.getpid() and lives(name) and any(folder in word for word in command_of(name)):
            found.append(int(name))
    return found


def runs_of(folder, name):
    """Processes of a run: its supervisor's, its launcher and its ranks, at its first start and later."""
    return [p for p in runs_here(folder) if {name, f"run.name={name}", f"{folder}/runs/{name}"} & set(command_of(p))]


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
            self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **ENV, **(env or {})},
                                            preexec_fn=t.with_us(signal.SIGKILL))

    def text(self):
        with open(self.log) as f:
            return f.read()

    def fail(self, why):
        self.process.send_signal(signal.SIGKILL)
        deadline = time.time() + 10
        while runs_of(self.folder, self.name) and time.time() < deadline:
            time.sleep(0.1)
        t.fail(f"{self.name}: {why}\n{self.text()[-3000:]}")

    def steps(self):
        return t.last_step(self.run_dir)

    def wait_until(self, reached, what):
        deadline = time.time() + PATIENCE
        while True:
            over = self.process.poll() is not None
            if reached():
                return
            if over:
                self.fail(f"ended with {self.process.returncode} before {what}")
            if time.time() > deadline:
                self.fail(f"did not come to {what}")
            time.sleep(0.002)

    def wait_step(self, step):
        self.wait_until(lambda: self.steps() >= step, f"step {step}")

    def wait_restart(self, number):
        self.wait_until(lambda: f"; restart {number} on " in self.text(), f"restart {number}")

    def ranks(self):
        """Process ids of the ranks, in no order."""
        found = []
        for pid in descendants(self.process.pid):
            words = command_of(pid)
            if len(words) > 1 and os.path.basename(words[0]) == "ebb" and words[1] == "train":
                found.append(pid)
        return found

    def has_begun(self):
        """Whether it takes signals."""
        try:
            with open(f"{self.run_dir}/supervisor.lock") as f:
                return f"pid {self.process.pid} " in f.read()
        except OSError:
            return False

    def wait_ranks(self, n):
        """Process ids of the ranks, once there are so many."""
        self.wait_until(lambda: len(self.ranks()) == n, f"{n} ranks")
        return self.ranks()

    def state(self):
        """What supervisor.json says it is doing."""
        try:
            with open(f"{self.run_dir}/supervisor.json") as f:
                return json.load(f)["state"]
        except (OSError, ValueError):
            return None

    def scale(self, ranks, ok=True):
        done = subprocess.run([t.EBB, "scale", self.run_dir, "--ranks", str(ranks)], capture_output=True, text=True, timeout=PATIENCE)
        if ok and done.returncode != 0:
            self.fail(f"scale to {ranks}: {done.returncode} {done.stdout}{done.stderr}")
        return done

    def wait_end(self):
        """Its exit code; on a crowded machine a run may take long, but not without getting on."""
        seen, deadline = None, 0
        while self.process.poll() is None:
            now = self.steps(), os.path.getsize(self.log)
            if now != seen:
                seen, deadline = now, time.time() + PATIENCE
            if time.time() > deadline:
                self.fail(f"hangs at step {now[0]} with {len(self.ranks())} ranks")
            time.sleep(0.02)
        return self.process.returncode

    def end(self, code):
        self.wait_end()
        if self.process.returncode != code:
            self.fail(f"exit code {self.process.returncode}, not {code}")
        self.leaves_nothing(0)
        return self.text()

    def pause(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.end(75)

    def goes_to_an_end(self, ranks=2):
        """The run, which was paused, comes to the model of one that nothing happened to."""
        steps = t.an_end(self.run_dir)
        Supervised(self.folder, self.name, self.kind, ranks, ["--set", f"train.max_steps={steps}"]).end(0)
        self.is_same(whole(self.folder, self.kind, steps))

    def leaves_nothing(self, seconds, memory=True):
        deadline = time.time() + seconds
        while True:
            left = runs_of(self.folder, self.name) + (shared_memory(self.process.pid) if memory else [])
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
        for number, ranks in (1, 3), (2, 2):
            job.wait_step(t.newest_step(job.run_dir) + 40)
            os.kill(job.wait_ranks(ranks)[0], signal.SIGKILL)
            job.wait_restart(number)
        job.wait_ranks(1)
        told = job.pause()
        restarts = t.record(job.run_dir)["restarts"]
        if [(r["ranks_before"], r["ranks"]) for r in restarts] != [(3, 2), (2, 1)]:
            t.fail(f"{job.name}: restarts {restarts}")
        if any(r["step"] is None or r["step"] < 15 or "reason" not in r or not r["time"].startswith("20") for r in restarts):
            t.fail(f"{job.name}: restarts {restarts}")
        if "restart 1 on 2 ranks from step" not in told or "restart 2 on 1 rank from step" not in told:
            t.fail(f"{job.name}: does not tell\n{told}")
        job.goes_to_an_end()


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
    job.pause()
    job.goes_to_an_end()
    if [r["ranks"] for r in t.record(job.run_dir)["resizes"]] != [3, 2, 0, 2]:
        t.fail(f"resizes {t.record(job.run_dir)['resizes']}")
    done = job.scale(2, ok=False)
    if done.returncode != 69 or "no supervisor is at work" not in done.stderr:
        t.fail(f"scaling a finished run: {done.returncode} {done.stderr}")


def paused(folder, number, name):
    job = Supervised(folder, name, ranks=2)
    job.wait_step(40)
    if "paused at step" not in job.pause(number) or t.record(job.run_dir)["outcome"] != "stopped":
        job.fail("does not say that it paused")
    job.goes_to_an_end(3)


def paused_by_terminate(folder):
    paused(folder, signal.SIGTERM, "paused-term")


def paused_by_interrupt(folder):
    paused(folder, signal.SIGINT, "paused-int")


def paused_at_any_moment(folder):
    """Also while the ranks start and the launcher would lose the signal."""
    for wait in 0, 0.3, 0.8:
        job = Supervised(folder, f"paused-{wait}", ranks=3)
        job.wait_until(job.has_begun, "its lock")
        time.sleep(wait)
        job.pause(signal.SIGUSR1)
        job.goes_to_an_end()


def by_a_rank(folder):
    """A signal to a rank pauses the run: exit 75 passes through."""
    job = Supervised(folder, "by-a-rank", ranks=2)
    job.wait_step(40)
    os.kill(job.wait_ranks(2)[0], signal.SIGTERM)
    job.end(75)


def ended_at_once(folder):
    """The second signal does not wait for a rank that stands still, for which the watchdog would wait a day."""
    job = Supervised(folder, "at-once", ranks=2, extra=["--set", "run.watchdog=86400"])
    job.wait_step(40)
    os.kill(job.wait_ranks(2)[0], signal.SIGSTOP)
    job.process.send_signal(signal.SIGTERM)
    job.wait_until(lambda: job.state() == "pausing", "the pause")
    time.sleep(1.5)  # sooner, it would be the same signal once more
    job.process.send_signal(signal.SIGTERM)
    job.end(128 + signal.SIGTERM)


def killed_supervisor(folder):
    """Either of its processes, its launcher, or both processes at once: nothing is left, and the same command goes on."""
    job = Supervised(folder, "killed-super", ranks=3)
    for victims in "outer", "inner", "both", "outer stopped":
        job.wait_step(1)
        ranks = job.wait_ranks(3)
        outer, inner = job.process.pid, descendants(job.process.pid)[0]
        folder_left = victims == "both" and shared_memory(outer)  # where the kernel gives no file system: the next supervisor sweeps it
        if victims == "outer stopped":
            os.kill(ranks[1], signal.SIGSTOP)
        if victims in ("inner", "both"):
            os.kill(inner, signal.SIGKILL)
        if victims != "inner":
            os.kill(outer, signal.SIGKILL)
        code = job.process.wait(PATIENCE)
        job.leaves_nothing(PATIENCE, memory=not folder_left)
        if code != (69 if victims == "inner" else -signal.SIGKILL):
            job.fail(f"{victims}: exit code {code}")
        done = job.scale(2, ok=False)
        if done.returncode != 69 or "no supervisor is at work" not in done.stderr:
            t.fail(f"scaling what a dead supervisor left: {done.returncode} {done.stderr}")
        job = Supervised(folder, "killed-super", ranks=3)
    job.wait_ranks(3)
    job.pause()
    job.goes_to_an_end()


def killed_launcher(folder):
    job = Supervised(folder, "killed-launcher", ranks=3)
    job.wait_step(40)
    launcher = int(stat(job.wait_ranks(3)[0])[1])
    os.kill(launcher, signal.SIGKILL)
    job.wait_restart(1)
    job.wait_ranks(3)
    told = job.pause()
    if "launcher died of SIGKILL; restart 1 on 3 ranks" not in told:
        t.fail(f"killed_launcher: {told}")
    job.goes_to_an_end()


def stopped_alone(folder):
    """One rank has no watchdog among ranks: the supervisor sees that it is stopped."""
    job = Supervised(folder, "stopped-alone", ranks=1, extra=["--set", "run.watchdog=2"])
    job.wait_step(40)
    os.kill(job.wait_ranks(1)[0], signal.SIGSTOP)
    job.wait_restart(1)
    if "was stopped; restart 1 on 1 rank" not in job.pause():
        t.fail("stopped_alone: not told")
    job.goes_to_an_end()


def launcher_that_hangs(folder):
    """Before there are any ranks."""
    script = f"{folder}/launcher"
    with open(script, "w") as f:
        f.write(f"#!/bin/sh\n[ -e {folder}/once ] && exec {LAUNCHER} \"$@\"\ntouch {folder}/once\nexec sleep 1000\n")
    os.chmod(script, 0o755)
    job = Supervised(folder, "launcher-hangs", ranks=2, extra=["--launcher", script, "--set", "run.watchdog=2"])
    job.wait_restart(1)
    job.wait_step(20)
    if "the launcher hung before its ranks had begun; restart 1 on 2 ranks anew" not in job.pause():
        job.fail("does not say why")
    job.goes_to_an_end()


def a_rank_that_cannot_leave(folder):
    """MPI_Finalize never returns: what is finished is not begun again."""
    hang = {"EBB_HANG": f"MPI_Finalize mpi 1 1 {folder}/leaving.mark", "LD_PRELOAD": os.environ["EBB_HANG_SHIM"],
            "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0"}
    job = Supervised(folder, "leaving", ranks=2, extra=["--set", "run.watchdog=3", "--set", "train.max_steps=60"], env=hang)
    told = job.end(0)
    if "; restart 1" in told or "is stuck: no progress for 3 s or more; last seen at step 60, leaving MPI" not in told:
        job.fail("begins again, or does not say why its ranks ended")
    job.is_same(whole(folder, "sparse", 60))


def given_up(folder):
    """Restarts that get nowhere come to an end."""
    start = time.time()
    job = Supervised(folder, "given-up", words=[t.EBB, "run", "--name", "given-up", "--dir", f"{folder}/runs/given-up", "--max-restarts", "2",
                                               "--", "sh", "-c", "echo once >> $0; kill -9 $$", f"{folder}/times"])
    told = job.end(69)
    with open(f"{folder}/times") as f:
        times = len(f.readlines())
    if times != 3 or "given up after 2 restarts without a newer checkpoint (there is none): a rank died of SIGKILL" not in told:
        t.fail(f"given_up: started {times} times in {time.time() - start:.1f} s\n{told}")


def refused(folder):
    """What would only fail again is not tried again."""
    def ends(code, words, *pieces):
        done = subprocess.run([t.EBB, "run", *words], capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, **ENV})
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
    job = Supervised(folder, "twice", ranks=1)
    job.wait_step(5)
    ends(64, ["--name", "twice", run], "in use by process")
    job.pause()
    ends(64, ["--name", "twice", "--set", "train.seed=7", run], "(train.seed differs)")
    job = Supervised(folder, "twice", ranks=1, extra=["--set", "checkpoint.every_steps=7"])  # changes no number: taken over
    job.wait_ranks(1)
    job.pause()
    if t.record(job.run_dir)["config"]["checkpoint"]["every_steps"] != 7:
        t.fail("refused: another checkpoint.every_steps is not taken over")
    t.run(["run", "-q", "--name", "twice", "--force", "--set", "train.max_steps=20", run])
    t.run(["run", "-q", "--resume", f"{folder}/runs/twice", "--set", "train.max_steps=50"])
    job.is_same(whole(folder, "sparse", 50))


CASES = [killed_ranks, resized, paused_by_terminate, paused_by_interrupt, paused_at_any_moment, by_a_rank, ended_at_once, killed_supervisor,
         killed_launcher, stopped_alone, launcher_that_hangs, a_rank_that_cannot_leave, given_up, refused]


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
