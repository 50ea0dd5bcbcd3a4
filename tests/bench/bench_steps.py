#!/usr/bin/env python3
"""What equal bits cost, and how much of the machine a whole training step uses. Dense MLP 784-512-256-10 on Fashion-MNIST-shaped noise.

  bench_steps.py --build build/release [--pairs 40] [--steps 5]

- canonical sums beside plain MPI_Allreduce (`train.sync: fast`), on 2 and 4 ranks, over shared memory and over TCP on the loopback device;
- 24 lanes beside an undivided batch (2 lanes, one a thread);
- the whole step's dense products, as a share of the FMA peak of the same seconds.

bench_steps (C) keeps both runs of a comparison alive in one process, ranks pinned, and lets them take turns block by block, so that a busy
machine disturbs both alike. A ratio is taken within each pair of blocks; given are the median of the pairs and its 95 % confidence interval (order
statistics, no assumption about the distribution), for wall time and for CPU time (a rank's process, waiting in MPI included). On a busy machine
look at the interval first: where it is wider than the difference, nothing was measured.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../support"))
import ebbtest as t

TCP = {"OMPI_MCA_btl": "self,tcp", "OMPI_MCA_pml": "ob1"}


def interval(values):
    """Median and its 95 % interval: ranks n/2 -+ 0.98 sqrt(n) of the sorted values."""
    v = sorted(values)
    low = max(0, math.floor(len(v) / 2 - 0.98 * math.sqrt(len(v))))
    return statistics.median(v), v[low], v[len(v) - 1 - low]


def text(values):
    return "%.3f [%.3f %.3f]" % interval(values)


def measure(o, ranks, first, second, env=None):
    command = [t.MPIRUN, str(ranks), f"{o.build}/tests/bench_steps", f"{o.work}/run.yaml", str(o.pairs), str(o.steps), first, second]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})
    if done.returncode != 0:
        t.fail(f"{' '.join(command)}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def median_of(pairs, key, i):
    return statistics.median(p[key][i] for p in pairs)


def compare(o, title, target, ranks, names, settings, env=None):
    pairs = measure(o, ranks, *settings, env=env)
    cores = min(os.cpu_count(), pairs[0]["ranks"] * pairs[0]["threads"])
    print(f"\n{title}")
    for i, name in enumerate(names):
        wall = [p["wall"][i] for p in pairs]
        # The best that the cores in use, and the CPU time spent, could have done by products alone.
        share_wall = [p["gflop"][i] / (p["wall"][i] * 1e-3) / (p["peak"] * cores) for p in pairs]
        share_cpu = [p["gflop"][i] / (p["cpu"][i] * 1e-3 * p["ranks"]) / p["peak"] for p in pairs]
        print(f"  {name:12} {statistics.median(wall):7.2f} ms a step ({min(wall):.2f} .. {max(wall):.2f}), exchange {median_of(pairs, 'sync', i):5.2f}, "
              f"loader stall {median_of(pairs, 'stall', i):4.2f}; products: {text(share_wall)} of the FMA peak by wall time, {text(share_cpu)} by CPU time")
    for key in ("wall", "cpu"):
        print(f"  {names[0]} / {names[1]}, {key:4}: {text([p[key][0] / p[key][1] for p in pairs])}  {target}")
    print(f"  FMA peak {statistics.median(p['peak'] for p in pairs):.1f} GFLOP/s a thread, {len(pairs)} pairs", flush=True)


def prepare(o):
    os.makedirs(o.work, exist_ok=True)
    if not os.path.exists(f"{o.work}/data"):
        t.dense_data(o.work, 20000, 784, 10, 1)
        t.run(["pack", f"{o.work}/x.npy", f"{o.work}/data", "--target", f"{o.work}/y.npy"])
    with open(f"{o.work}/run.yaml", "w") as f:
        f.write(f"data: {{train: {o.work}/data}}\nmodel: {{layers: [{{linear: {{out: 512}}}}, {{relu: {{}}}}, {{linear: {{out: 256}}}}, {{relu: {{}}}}, {{linear: {{}}}}]}}\n"
                f"train: {{epochs: 1000, batch: 3072, optimizer: {{adam: {{lr: 0.001}}}}}}\nrun: {{dir: {o.work}/runs}}\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build/release")
    p.add_argument("--work", default="build/bench-steps")
    p.add_argument("--pairs", type=int, default=40)
    p.add_argument("--steps", type=int, default=5, help="steps timed in a block")
    o = p.parse_args()
    o.build, o.work = os.path.abspath(o.build), os.path.abspath(o.work)
    t.EBB = f"{o.build}/apps/ebb"
    prepare(o)
    for way, env in (("shared memory", None), ("TCP", TCP)):
        for ranks in (2, 4):
            compare(o, f"{ranks} ranks x 1 thread, batch 3072, {way}", "(wanted: <= 1.05)", ranks, ("canonical", "fast"),
                    ("train.threads=1,train.sync=canonical", "train.threads=1,train.sync=fast"), env)
    for rows in (32, 64, 128, 170):
        compare(o, f"1 rank x 2 threads, 24 lanes of {rows} rows beside 2 lanes of {12 * rows}", "(wanted: <= 1.031 from 128 rows)" if rows >= 128 else "", 1,
                ("24 lanes", "undivided"), (f"lanes=24,train.threads=2,train.batch={24 * rows}", f"lanes=2,train.threads=2,train.batch={24 * rows}"))


if __name__ == "__main__":
    main()
