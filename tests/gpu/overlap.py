#!/usr/bin/env python3
"""Buckets of the gradient are exchanged, summed, updated and gathered while others are computed: the same bits for any number of
ranks, by NCCL and by host memory, and with and without it. On the doubles also whatever streams do first that nothing makes wait,
and what NCCL is asked for. --backend cuda: on a GPU, which two ranks may share (NCCL >= 2.30).
"""
import argparse
import os
import re
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbtest as t

# Three buckets of 4 MiB and more, but for the last.
DEEP = "{layers: [{linear: {out: 1100}}, relu, {linear: {out: 1000}}, gelu, {linear: {out: 1050}}, relu, linear]}"
STEPS = {"cuda_double": 3, "cuda": 40}
# Ranks (0: without mpirun), wire, and by what chance streams go on: 0, when somebody waits for them.
WAYS = [(0, "auto", 1), (2, "nccl", 0), (3, "nccl", 2), (2, "mpi", 3), (2, "nccl", 4), (4, "nccl", 5)]
FEW = {"cuda_double": WAYS[1:4], "cuda": [(0, "auto", 0), (2, "nccl", 0), (2, "mpi", 0)]}


class Runs:
    def __init__(self, folder, backend):
        self.folder, self.n, self.steps = folder, 0, STEPS[backend]
        t.dense_data(folder, 999, 37, 5, 2)
        t.run(["pack", f"{folder}/x.npy", f"{folder}/dense", "--target", f"{folder}/y.npy"])
        t.sparse_data(f"{folder}/sparse.svm", 999, 3001, 12, 3, 1)
        t.run(["pack", f"{folder}/sparse.svm", f"{folder}/sparse"])
        with open(f"{folder}/run.yaml", "w") as f:
            f.write(f"data: {{block_rows: 64, window_blocks: 4}}\nmodel: {DEEP}\n"
                    f"train: {{batch: 40, epochs: 9, max_steps: {self.steps}, threads: 2, backend: {backend}, optimizer: {{adam: {{lr: 0.001}}}}}}\n"
                    f"run: {{dir: {folder}/runs}}\n")

    def go(self, ranks, data, settings=(), **env):
        """Train; its hashes, its record and stderr."""
        self.n += 1
        run_dir = f"{self.folder}/runs/r{self.n}"
        args = ["train", f"{self.folder}/run.yaml", "--set", f"run.name=r{self.n}", "--set", f"data.train={self.folder}/{data}"]
        args += [a for s in settings for a in ("--set", s)]
        err = t.run(args, ranks, env={"NCCL_MULTI_RANK_GPU_ENABLE": "1", **env}).stderr
        return t.hashes(run_dir), t.record(run_dir), err


def check(what, got, want, buckets):
    hashes, record, _ = got
    if hashes != want:
        t.fail(f"{what}: other bits than one rank without overlap")
    if record["buckets"] != buckets:
        t.fail(f"{what}: {record['buckets']} buckets, not {buckets}")


def bits(runs, data, settings, ways):
    want = runs.go(0, data, settings, EBB_OVERLAP="0")[0]
    for ranks, wire, seed in ways:
        got = runs.go(ranks, data, [*settings, f"train.wire={wire}"], EBB_DOUBLE_SHUFFLE=str(seed))
        check(f"{data} {settings}, {ranks} ranks by {wire}, seed {seed}", got, want, 3 if ranks else 1)
    check(f"{data} {settings}, not overlapped", runs.go(2, data, settings, EBB_OVERLAP="0"), want, 0)


def a_bucket_leaves_before_the_next_is_done(runs):
    """Of each step: a bucket is exchanged and its weights given back in turn, all before the work they follow was reached."""
    trace = f"{runs.folder}/trace"
    runs.go(2, "dense", EBB_NCCL_TRACE=trace)
    with open(f"{trace}.0") as f:
        groups = re.findall(r"^group(.*)\n(\w+)", f.read(), re.M)
    if [kind for _, kind in groups] not in (["recv", "broadcast"] * 3 * runs.steps, ["send", "broadcast"] * 3 * runs.steps):
        t.fail(f"NCCL was asked for {groups}")
    if sum("after work under way" in how for how, _ in groups) < len(groups) - 2: # memory that grows waits for all there is
        t.fail(f"NCCL was asked late: {groups}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="cuda_double", choices=STEPS)
    backend = parser.parse_args().backend
    with tempfile.TemporaryDirectory(prefix="ebb-overlap-") as folder:
        runs = Runs(folder, backend)
        bits(runs, "dense", [], WAYS if backend == "cuda_double" else FEW[backend])
        bits(runs, "dense", ["train.clip_norm=0.5", "train.precision=bf16"], FEW[backend])
        bits(runs, "sparse", ["train.optimizer={adagrad: {lr: 0.01}}"], FEW[backend])
        if backend == "cuda_double":
            a_bucket_leaves_before_the_next_is_done(runs)
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
