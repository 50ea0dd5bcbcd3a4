#!/usr/bin/env python3
"""Storage and clock that fail under a run: a flipped bit in a shard, a folder in use, a full disk, a read-only one, a folder removed in mid-run, a
clock that goes back. One line, the right exit code, nothing half-written; what a run can do without, it goes on without, and its bits are the same."""
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbtest as t

RUN = """
data: {{train: {folder}/data, memory: 64MiB}}
lanes: 6
model: {{layers: [{{linear: {{out: 30}}}}, {{relu: {{}}}}, {{linear: {{}}}}]}}
train: {{epochs: 3, batch: 31, threads: 2}}
run: {{dir: {folder}/runs}}
"""


def refused(args, ranks, code, pattern):
    """ebb must fail with one error line."""
    done = t.run(args, ranks, ok=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("ebb: error: ")]
    if done.returncode != code or len(errors) != 1 or not re.search(pattern, errors[0]):
        t.fail(f"{args} on {ranks} ranks: wanted exit code {code} and one line with \"{pattern}\", got {done.returncode}\n{done.stderr}")


def flipped_bit(folder):
    """Every rank count tells shard, dataset and chunk, and no model is left."""
    shard = f"{folder}/data/shard-00000.h5"
    with open(shard, "r+b") as f:
        f.seek(os.path.getsize(shard) // 2)
        byte = f.read(1)[0]
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte ^ 4]))
    for ranks in (0, 2, 3):
        args = ["train", "-q", f"{folder}/run.yaml", "--set", f"run.name=flip{ranks}"]
        refused(args, ranks, 65, r"shard-00000.h5: .*X/(data|indices).* chunk [0-9]+")
        if t.record(f"{folder}/runs/flip{ranks}")["outcome"] != "failed" or os.path.exists(f"{folder}/runs/flip{ranks}/model.h5"):
            t.fail("the run should be recorded as failed, without a model")
    skipped = []
    for ranks in (0, 2, 3):
        t.run(["train", "-q", f"{folder}/run.yaml", "--set", f"run.name=skip{ranks}", "--set", "data.on_corrupt=skip"], ranks)
        record = t.record(f"{folder}/runs/skip{ranks}")
        skipped.append((record["weights_sha256"], record["skipped"]))
    if skipped[0] != skipped[1] or skipped[0] != skipped[2] or len(skipped[0][1]["chunks"]) != 1:
        t.fail(f"rows should be left out alike by any number of ranks, and named: {skipped}")
    if skipped[0][1]["rows"] != 3 * skipped[0][1]["chunks"][0]["rows"] or "chunk" not in skipped[0][1]["chunks"][0]["reason"]:
        t.fail(f"the rows of one chunk, once an epoch: {skipped[0][1]}")
    with open(shard, "r+b") as f:
        f.seek(os.path.getsize(shard) // 2)
        f.write(bytes([byte]))


def two_in_one_folder(folder):
    """A second run in the folder of one that goes on is refused, and harms nothing."""
    args = ["train", "-q", f"{folder}/run.yaml", "--set", "run.name=shared", "--set", "train.epochs=100000"]
    first = subprocess.Popen(t.command(args), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while first.poll() is None and not os.path.exists(f"{folder}/runs/shared/run.json"):
        time.sleep(0.01)
    try:
        for ranks in (0, 2):
            refused(args, ranks, 64, "runs/shared: in use by process [0-9]+ on .*: wait for it, or give this run another run.name")
            refused(args + ["--force"], ranks, 64, "runs/shared: in use by process [0-9]+")
    finally:
        first.terminate()
    if first.communicate(timeout=300) is None or first.returncode != 75:
        t.fail(f"the first run should go on and be stopped, exit code {first.returncode}")
    refused(args, 0, 64, "runs/shared: holds a run already")
    t.run(["train", "-q", "--resume", f"{folder}/runs/shared", "--set", "train.epochs=1", "--set", "train.max_steps=1"])


class Disk:
    """A small file system of its own; None where mounting is not permitted."""

    def __init__(self, path, size):
        os.makedirs(path, exist_ok=True)
        self.path = path
        self.mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], capture_output=True).returncode == 0

    def __enter__(self):
        return self if self.mounted else None

    def remount(self, options):
        subprocess.run(["mount", "-o", f"remount,{options}", self.path], check=True)

    def __exit__(self, *_):
        if self.mounted:
            subprocess.run(["umount", "-l", self.path], check=True)


def undisturbed(folder):
    """Final hashes of weights and state."""
    if not os.path.exists(f"{folder}/runs/roomy"):
        t.run(["train", "-q", f"{folder}/run.yaml", "--set", "run.name=roomy"])
    return t.hashes(f"{folder}/runs/roomy")


def full_disk(folder):
    """Checkpoints that do not fit: the run goes on, its last one fails it with exit code 74, one before stays whole; with more room, the same bits."""
    with Disk(f"{folder}/disk", "2M") as disk:
        if not disk:
            return False
        run_dir = f"{disk.path}/full"
        args = ["train", "-q", f"{folder}/run.yaml", "--set", f"run.dir={disk.path}", "--set", "run.name=full", "--set", "checkpoint.every_steps=5"]
        done = t.run(args, 2, ok=False)
        errors = [line for line in done.stderr.splitlines() if line.startswith("ebb: error: ")]
        warnings = [line for line in done.stderr.splitlines() if "warning: no checkpoint of step" in line]
        if done.returncode != 74 or len(errors) != 1 or not re.search(r"no checkpoint of step [0-9]+ \(the newest is of step [0-9]+\).*full/checkpoints/step-[0-9]+.h5.*No space left on device", errors[0]):
            t.fail(f"wanted exit code 74 and one error\n{done.returncode}\n{done.stderr}")
        if not 1 < len(warnings) < 10 or not all("No space left on device" in w and "training goes on" in w for w in warnings):
            t.fail(f"checkpoints that fail should be told, ever more seldom\n{done.stderr}")
        left = [name for name in os.listdir(f"{run_dir}/checkpoints")]
        if not left or any(".tmp" in name for name in left):
            t.fail(f"one whole checkpoint should be left, not {left}")
        disk.remount("size=16M")
        t.run(["train", "-q", "--resume", run_dir], 3)
        if t.hashes(run_dir) != undisturbed(folder):
            t.fail("resumed after a full disk, the run differs")
    return True


def lines_of(run_dir, kind):
    try:
        return [m for m in t.metrics(run_dir) if m["kind"] == kind]
    except (OSError, ValueError):
        return []


class Disturbed:
    """A run without an end of its own, whose storage is let down after its second checkpoint."""

    def __init__(self, folder, name, ranks):
        self.folder, self.name, self.run_dir = folder, name, f"{folder}/runs/{name}"
        args = ["train", f"{folder}/run.yaml", "--set", f"run.name={name}", "--set", "checkpoint.every_steps=3", "--set", "train.epochs=100000000"]
        self.job = subprocess.Popen(t.command(args, ranks), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                    preexec_fn=t.with_us())

    def wait(self, kind, number):
        """Until so many lines of the kind are in metrics.jsonl."""
        deadline = time.time() + 300
        while len(lines_of(self.run_dir, kind)) < number:
            if self.job.poll() is not None or time.time() > deadline:
                self.job.kill()
                t.fail(f"{self.name}: did not come to {number} x {kind}\n{self.job.communicate()[1]}")
            time.sleep(0.02)

    def end(self, ranks):
        """Stop it and go on to an end a few steps further: the same bits as if nothing had happened. Its stderr."""
        os.kill(t.rank_pid(self.job.pid, 0), signal.SIGTERM)
        err = self.job.communicate(timeout=300)[1]
        if self.job.returncode != 75:
            t.fail(f"{self.name}: exit code {self.job.returncode}\n{err}")
        left = os.listdir(f"{self.run_dir}/checkpoints")
        if any(".tmp" in file for file in left):
            t.fail(f"{self.name}: left behind {left}")
        steps = t.an_end(self.run_dir)
        t.run(["train", "-q", "--resume", self.run_dir, "--set", f"train.max_steps={steps}"], ranks)
        if t.hashes(self.run_dir) != longer(self.folder, steps):
            t.fail(f"{self.name}: the run differs\n{err}")
        return err


def longer(folder, steps):
    run_dir = f"{folder}/runs/longer-{steps}"
    if not os.path.exists(run_dir):
        t.run(["train", "-q", f"{folder}/run.yaml", "--set", f"run.name=longer-{steps}", "--set", "train.epochs=100000000", "--set", f"train.max_steps={steps}"])
    return t.hashes(run_dir)


def goes_on_without(folder, name, reason, disturb, repair, ranks):
    """Checkpoints fail while the disk is in a bad way, and succeed again after it."""
    with Disk(f"{folder}/runs/{name}/checkpoints", "16M") as disk:
        if not disk:
            return False
        run = Disturbed(folder, name, ranks)
        run.wait("checkpoint", 2)
        disturb(disk)
        run.wait("checkpoint_failed", 3)
        failed = lines_of(run.run_dir, "checkpoint_failed")
        written = len(lines_of(run.run_dir, "checkpoint"))
        repair(disk)
        run.wait("checkpoint", written + 2)
        err = run.end(3)
        if not all(reason in m["error"] and "the newest is of step" in m["error"] for m in failed) or "warning: no checkpoint of step" not in err:
            t.fail(f"{name}: failed checkpoints should be told: {failed}\n{err}")
    return True


def full_for_a_while(folder):
    full = threading.Event()

    def fill(disk):
        with open(f"{disk.path}/filler", "ab", buffering=0) as filler:
            while full.is_set():
                try:
                    filler.write(bytes(1 << 16))
                except OSError:
                    time.sleep(0.002)

    def begin(disk):
        """Until it ends: a checkpoint that is under way, however slow, frees room when it takes an older one's place."""
        full.set()
        begin.thread = threading.Thread(target=fill, args=(disk,))
        begin.thread.start()

    def end(disk):
        full.clear()
        begin.thread.join()
        os.unlink(f"{disk.path}/filler")

    try:
        return goes_on_without(folder, "full_for_a_while", "No space left on device", begin, end, 2)
    finally:
        full.clear()


def read_only_for_a_while(folder):
    def remount(disk, how):
        while subprocess.run(["mount", "-o", f"remount,{how}", disk.path], capture_output=True).returncode != 0:
            time.sleep(0.001)  # busy while a checkpoint is being written

    return goes_on_without(folder, "read_only_for_a_while", "Read-only file system", lambda d: remount(d, "ro"), lambda d: remount(d, "rw"), 2)


def read_only_from_the_start(folder):
    with Disk(f"{folder}/sealed", "1M") as disk:
        if not disk:
            return False
        disk.remount("ro")
        for ranks in (0, 2):
            refused(["train", "-q", f"{folder}/run.yaml", "--set", f"run.dir={disk.path}"], ranks, 74, "sealed.*Read-only file system")
    return True


def removed_folder(folder):
    """The next checkpoint, the record and the model are made anew in it."""
    run = Disturbed(folder, "removed", 2)
    run.wait("checkpoint", 2)
    os.rename(run.run_dir, f"{run.run_dir}.gone")
    subprocess.run(["rm", "-r", f"{run.run_dir}.gone"], check=True)
    run.wait("checkpoint", 2)
    err = run.end(2)
    if "was removed while the run goes on" not in err:
        t.fail(f"removed: should be told\n{err}")
    t.run(["eval", run.run_dir, f"{folder}/data"])
    return True


def clock_goes_back(folder, shim):
    """A wall clock that runs backwards changes nothing: not the newest checkpoint, not the time of the next, no duration, no watchdog."""
    env = {"LD_PRELOAD": shim, "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0", "EBB_LOG": "warn"}
    args = ["train", "-q", f"{folder}/run.yaml", "--set", "run.name=back", "--set", "checkpoint.every_steps=7", "--set", "checkpoint.every_minutes=0.001"]
    for more, ranks in ((args + ["--set", "train.max_steps=50"], 2), (["train", "-q", "--resume", f"{folder}/runs/back", "--set", "train.max_steps=0"], 3)):
        done = t.run(more, ranks, env=env)
        if "ebb: " in done.stderr:  # libraries may have their say
            t.fail(f"a clock that goes back should cause no word\n{done.stderr}")
    record = t.record(f"{folder}/runs/back")
    if t.hashes(f"{folder}/runs/back") != undisturbed(folder) or not 0 < record["seconds"] < 3600:
        t.fail(f"with a clock that goes back, the run differs: {record}")
    if not record["starts"][0]["ended"] < record["starts"][0]["started"]:
        t.fail(f"the clock did not go back: {record['starts']}")
    saved = lines_of(f"{folder}/runs/back", "checkpoint")
    if not saved or any(not 0 <= m["write_seconds"] < 3600 for m in saved):
        t.fail(f"durations should not depend on the wall clock: {saved}")
    listed = t.run(["ckpt", "list", f"{folder}/runs/back"], env=env)
    if "verified" not in listed.stdout and "step-" not in listed.stdout:
        t.fail(listed.stdout)
    return True


def main():
    with tempfile.TemporaryDirectory(prefix="ebb-storage-") as folder:
        t.sparse_data(f"{folder}/rows.svm", 1203, 3001, 12, 3, 1)
        t.run(["pack", "-q", f"{folder}/rows.svm", f"{folder}/data"])
        with open(f"{folder}/run.yaml", "w") as f:
            f.write(RUN.format(folder=folder))
        names = sys.argv[2:]
        cases = [(c, (folder,)) for c in (flipped_bit, two_in_one_folder, full_disk, full_for_a_while, read_only_for_a_while, read_only_from_the_start,
                                          removed_folder)] + [(clock_goes_back, (folder, sys.argv[1]))]
        cases = [c for c in cases if not names or c[0].__name__ in names]
        skipped = 0
        for case, args in cases:
            start = time.time()
            done = case(*args) is not False
            skipped += not done
            print(f"ok {case.__name__} {time.time() - start:.1f} s" if done else f"SKIPPED: {case.__name__}: mounting a tmpfs is not permitted here", flush=True)
        print(f"{len(cases) - skipped} passed, {skipped} skipped, 0 failed", flush=True)
    sys.exit(t.SKIP if skipped else 0)


if __name__ == "__main__":
    main()
