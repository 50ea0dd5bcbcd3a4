#!/usr/bin/env python3
"""Stopping and killing a run: signals at any moment to any rank or to the launcher, and the same bits after going on elsewhere.

Runs have no end of their own, so that none is over before its case has done what it is about; gone on with, they come to one a few steps further."""
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
data: {{train: {folder}/data/train, valid: {folder}/data/valid, block_rows: 16, window_blocks: 4, memory: 64MiB}}
lanes: 6
model: {{layers: [{{linear: {{out: 9}}}}, {{relu: {{}}}}, {{dropout: {{p: 0.2}}}}, {{linear: {{}}}}]}}
train: {{epochs: 100000000, max_steps: 1000000000, batch: 31, threads: 2, optimizer: {{adam: {{lr: 0.01}}}}}}
run: {{dir: {folder}/runs}}
"""


class Job:
    """A run in the background, in a folder of its own."""

    def __init__(self, folder, name, ranks, extra=()):
        self.folder, self.name, self.ranks = folder, name, ranks
        self.run_dir = f"{folder}/runs/{name}"
        args = ["train", f"{folder}/run.yaml", "--set", f"run.name={name}", "--log-every", "1", *extra]
        self.process = subprocess.Popen(t.command(args, ranks), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                        stdin=subprocess.DEVNULL, preexec_fn=t.with_us())

    def wait_until(self, reached, what):
        deadline = time.time() + PATIENCE
        while not reached():
            if (self.process.poll() is not None and not reached()) or time.time() > deadline:
                self.process.kill()
                t.fail(f"{self.name}: did not come to {what}\n{self.process.communicate()[1]}")
            time.sleep(0.001)

    def wait_step(self, step):
        self.wait_until(lambda: self.steps() >= step, f"step {step}")

    def steps(self):
        return t.last_step(self.run_dir)

    def pid(self, rank):
        """Process id of a rank; of the one process where there is no launcher."""
        if not self.ranks:
            return self.process.pid
        return t.rank_pid(self.process.pid, rank) or t.fail(f"{self.name}: there is no process of rank {rank}")

    def end(self, seconds=PATIENCE):
        try:
            err = self.process.communicate(timeout=seconds)[1]
        except subprocess.TimeoutExpired:
            self.process.kill()
            t.fail(f"{self.name}: hangs\n{self.process.communicate()[1]}")
        return self.process.returncode, err

    def end_stopped(self):
        code, err = self.end()
        if code != 75 or err.count("stopped after step") != 1:
            t.fail(f"{self.name}: should be stopped with exit code 75 and say so once, not {code}\n{err}")
        if t.record(self.run_dir)["outcome"] != "stopped":
            t.fail(f"{self.name}: run.json does not say stopped")
        left = [name for name in os.listdir(f"{self.run_dir}/checkpoints") if ".tmp" in name]
        if left:
            t.fail(f"{self.name}: left behind {left}")


def fingerprint(run_dir):
    record = t.record(run_dir)
    epochs = [(m["epoch"], m["order_hash"], m["train_loss"], m["valid_loss"]) for m in t.metrics(run_dir) if "order_hash" in m]
    return record["weights_sha256"], record["optimizer_sha256"], record["steps"], epochs


def whole(folder, steps):
    """What a run of so many steps comes to when nothing happens to it."""
    run_dir = f"{folder}/runs/whole-{steps}"
    if not os.path.exists(f"{run_dir}/model.h5"):
        t.run(["train", "-q", f"{folder}/run.yaml", "--set", f"run.name=whole-{steps}", "--set", "train.threads=1", "--set", f"train.max_steps={steps}"],
              timeout=PATIENCE)
    return fingerprint(run_dir)


def resume_and_compare(job, ranks):
    steps = t.an_end(job.run_dir)
    t.run(["train", "-q", "--resume", job.run_dir, "--set", "checkpoint.every_steps=0", "--set", f"train.max_steps={steps}"], ranks, timeout=PATIENCE)
    got, want = fingerprint(job.run_dir), whole(job.folder, steps)
    if got != want:
        t.fail(f"{job.name}: resumed on {ranks} ranks, the run differs\n  got  {got}\n  want {want}")


# ---- the cases ----

def stopped_by(folder, name, number, ranks, target, then, step=40, extra=()):
    job = Job(folder, name, ranks, extra)
    job.wait_step(step)
    os.kill(job.process.pid if target == "launcher" else job.pid(target), number)
    job.end_stopped()
    resume_and_compare(job, then)


def alone_by_interrupt(folder):
    stopped_by(folder, "alone_by_interrupt", signal.SIGINT, 0, 0, 3)


def last_rank_by_terminate(folder):
    stopped_by(folder, "last_rank_by_terminate", signal.SIGTERM, 3, 2, 1)


def first_rank_by_usr1(folder):
    stopped_by(folder, "first_rank_by_usr1", signal.SIGUSR1, 2, 0, 4)


def launcher_by_usr1(folder):
    stopped_by(folder, "launcher_by_usr1", signal.SIGUSR1, 2, "launcher", 3)


def launcher_by_terminate(folder):
    """On SIGTERM or Ctrl-C mpirun sends SIGTERM to its ranks, SIGKILL a little later, and exits 1: resumable whoever is faster."""
    job = Job(folder, "launcher_by_terminate", 2, ["--set", "checkpoint.every_steps=15"])
    job.wait_step(40)
    os.kill(job.process.pid, signal.SIGTERM)
    job.end()
    resume_and_compare(job, 3)


def during_checkpoints(folder):
    stopped_by(folder, "during_checkpoints", signal.SIGTERM, 2, 1, 3, extra=["--set", "checkpoint.every_steps=1"])


def before_the_first_step(folder):
    job = Job(folder, "before_the_first_step", 2)
    job.wait_until(lambda: os.path.exists(f"{job.run_dir}/lock"), "its folder")
    os.kill(job.pid(1), signal.SIGTERM)
    job.end_stopped()
    resume_and_compare(job, 1)


def stopped_and_then_made_longer(folder):
    job = Job(folder, "stopped_and_then_made_longer", 2)
    job.wait_step(20)
    os.kill(job.pid(1), signal.SIGTERM)
    job.end_stopped()
    steps = t.an_end(job.run_dir)
    t.run(["train", "-q", "--resume", job.run_dir, "--set", f"train.max_steps={steps + 1}"], 3)
    t.run(["train", "-q", "--resume", job.run_dir, "--set", f"train.max_steps={steps + 100}"], 2)
    if fingerprint(job.run_dir)[:3] != whole(folder, steps + 100)[:3]:
        t.fail(f"{job.name}: the run differs")


def second_signal_ends_at_once(folder):
    """Rank 1 stands still, so that rank 0 cannot finish its step: the second signal must not wait for it."""
    job = Job(folder, "second_signal", 2, ["--set", "checkpoint.every_steps=10", "--set", "run.watchdog=86400"])
    job.wait_step(25)
    other = job.pid(1)
    os.kill(other, signal.SIGSTOP)
    first = job.pid(0)
    os.kill(first, signal.SIGTERM)
    time.sleep(0.3)
    if job.process.poll() is not None:
        t.fail("second_signal: the first one should wait for the step")
    deadline = time.time() + PATIENCE
    while t.rank_pid(job.process.pid, 0) and time.time() < deadline:  # on a busy machine two may have come as one
        os.kill(first, signal.SIGTERM)
        time.sleep(0.5)
    code, err = job.end()
    if code in (0, 75):
        t.fail(f"second_signal: exit code {code}\n{err}")
    resume_and_compare(job, 3)


def killed(folder, name, rank, ranks, then):
    job = Job(folder, name, ranks, ["--set", "checkpoint.every_steps=15"])
    job.wait_step(40)
    os.kill(job.pid(rank), signal.SIGKILL)
    code, err = job.end()
    if code in (0, 75):
        t.fail(f"{name}: exit code {code}\n{err}")
    resume_and_compare(job, then)


def killed_rank(folder):
    killed(folder, "killed_rank", 1, 3, 2)


def killed_alone(folder):
    killed(folder, "killed_alone", 0, 0, 3)


def killed_before_the_model(folder):
    """All steps done and saved, then killed: resuming writes the same model, and the metrics into run.json."""
    want, run_dir = whole(folder, 400), f"{folder}/runs/whole-400"
    record, model = t.record(run_dir), open(f"{run_dir}/model.h5", "rb").read()
    os.unlink(f"{run_dir}/model.h5")
    with open(f"{run_dir}/run.json", "w") as f:
        json.dump({k: v for k, v in record.items() if k not in ("metrics", "weights_sha256", "optimizer_sha256")}, f)
    t.run(["train", "-q", "--resume", run_dir], 2)
    if open(f"{run_dir}/model.h5", "rb").read() != model:
        t.fail("killed_before_the_model: model.h5 differs")
    if t.record(run_dir)["metrics"] != record["metrics"] or fingerprint(run_dir) != want:
        t.fail(f"killed_before_the_model: the record differs: {t.record(run_dir).get('metrics')}, not {record['metrics']}")


def killed_while_saving(folder):
    """Checkpoints all the time, killed at some moments: what is left can always be gone on with."""
    job = Job(folder, "killed_while_saving", 0, ["--set", "checkpoint.every_steps=1"])
    job.wait_step(5)
    job.process.kill()
    job.end()
    for kill in range(3):
        again = subprocess.Popen(t.command(["train", "-q", "--resume", job.run_dir], 0), stdin=subprocess.DEVNULL)
        time.sleep(0.3 + 0.2 * kill)
        again.kill()
        again.wait()
    resume_and_compare(job, 2)
    left = os.listdir(f"{job.run_dir}/checkpoints")
    if any(".tmp" in name for name in left):
        t.fail(f"{job.name}: left behind {left}")


CASES = [alone_by_interrupt, last_rank_by_terminate, first_rank_by_usr1, launcher_by_usr1, launcher_by_terminate, during_checkpoints,
         before_the_first_step, stopped_and_then_made_longer, second_signal_ends_at_once, killed_rank, killed_alone,
         killed_while_saving, killed_before_the_model]


def main():
    names = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="ebb-stop-") as folder:
        t.sparse_data(f"{folder}/rows.svm", 1203, 3001, 12, 3, 1)
        t.run(["pack", "-q", f"{folder}/rows.svm", f"{folder}/data", "--split", "train=0.8,valid=0.2"])
        with open(f"{folder}/run.yaml", "w") as f:
            f.write(RUN.format(folder=folder))
        cases = [case for case in CASES if not names or case.__name__ in names]
        for case in cases:
            start = time.time()
            case(folder)
            print(f"ok {case.__name__} {time.time() - start:.1f} s", flush=True)
    print(f"{len(cases)} passed, 0 failed")


if __name__ == "__main__":
    main()
