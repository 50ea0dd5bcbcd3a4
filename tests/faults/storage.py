#!/usr/bin/env python3
"""Storage that fails under a run: a flipped bit in a shard, a full disk, a folder in use. One line, the right exit code, nothing half-written."""
import os
import re
import subprocess
import sys
import tempfile
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
    done = t.run(args, ranks, ok=False, timeout=60)
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
    if first.communicate(timeout=60) is None or first.returncode != 75:
        t.fail(f"the first run should go on and be stopped, exit code {first.returncode}")
    refused(args, 0, 64, "runs/shared: holds a run already")
    t.run(["train", "-q", "--resume", f"{folder}/runs/shared", "--set", "train.epochs=1", "--set", "train.max_steps=1"])


def full_disk(folder):
    """A checkpoint that does not fit: exit 74, the one before it stays whole, and with more room the run ends as if nothing had been."""
    disk = f"{folder}/disk"
    os.mkdir(disk)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2M", "none", disk], capture_output=True).returncode != 0:
        print("SKIPPED: full_disk: mounting a tmpfs is not permitted here")
        return False
    try:
        run_dir = f"{disk}/full"
        args = ["train", "-q", f"{folder}/run.yaml", "--set", f"run.dir={disk}", "--set", "run.name=full", "--set", "checkpoint.every_steps=5"]
        refused(args, 2, 74, "full/checkpoints/step-0000000[0-9]+.h5.*No space left on device")
        left = [name for name in os.listdir(f"{run_dir}/checkpoints")]
        if not left or any(".tmp" in name for name in left):
            t.fail(f"one whole checkpoint should be left, not {left}")
        t.run(["train", "-q", f"{folder}/run.yaml", "--set", "run.name=roomy"])
        subprocess.run(["mount", "-o", "remount,size=16M", disk], check=True)
        t.run(["train", "-q", "--resume", run_dir], 3)
        if t.record(run_dir)["weights_sha256"] != t.record(f"{folder}/runs/roomy")["weights_sha256"]:
            t.fail("resumed after a full disk, the run differs")
    finally:
        subprocess.run(["umount", disk], check=True)
    return True


def main():
    with tempfile.TemporaryDirectory(prefix="ebb-storage-") as folder:
        t.sparse_data(f"{folder}/rows.svm", 1203, 3001, 12, 3, 1)
        t.run(["pack", "-q", f"{folder}/rows.svm", f"{folder}/data"])
        with open(f"{folder}/run.yaml", "w") as f:
            f.write(RUN.format(folder=folder))
        flipped_bit(folder)
        print("ok flipped_bit", flush=True)
        two_in_one_folder(folder)
        print("ok two_in_one_folder", flush=True)
        done = full_disk(folder)
        print(f"{2 + done} passed, 0 failed", flush=True)
    sys.exit(0 if done else t.SKIP)


if __name__ == "__main__":
    main()
