#!/usr/bin/env python3
"""What equal bits cost: canonical sums beside plain MPI_Allreduce (`train.sync: fast`), and 24 lanes beside an undivided batch.

  bench_steps.py --ebb build/release/apps/ebb [--repeats 5]

Dense MLP 784-512-256-10 on Fashion-MNIST-shaped noise. The time of a step is the run's own seconds over its steps after the first 20 per cent.
Variants take turns within each repeat, so that a noisy machine disturbs all alike. Prints medians, spread and ratios.
"""
import argparse
import os
import shutil
import statistics
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../support"))
import ebbtest as t


def step_seconds(work, name, ranks, steps, settings):
    run_dir = f"{work}/runs/{name}"
    shutil.rmtree(run_dir, ignore_errors=True)
    sets = [x for s in settings + [f"run.name={name}", f"train.max_steps={steps}"] for x in ("--set", s)]
    t.run(["train", f"{work}/run.yaml", "--log-every", "1"] + sets, ranks, timeout=1800)
    records = [m for m in t.metrics(run_dir) if m["kind"] == "step"]
    first = records[len(records) // 5]
    return (records[-1]["seconds"] - first["seconds"]) / (records[-1]["step"] - first["step"])


def compare(work, title, ranks, steps, variants, repeats):
    times = {name: [] for name in variants}
    for _ in range(repeats):
        for name, settings in variants.items():
            times[name].append(step_seconds(work, name, ranks, steps, settings))
    print(f"\n{title}")
    for name, v in times.items():
        print(f"  {name:12} {1e3 * statistics.median(v):8.3f} ms a step  ({1e3 * min(v):.3f} .. {1e3 * max(v):.3f})")
    (a, x), (b, y) = list(times.items())[:2]
    print(f"  {a} / {b}: {statistics.median(x) / statistics.median(y):.3f} (medians), {min(x) / min(y):.3f} (best of each)")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ebb", default=os.environ.get("EBB", "build/release/apps/ebb"))
    p.add_argument("--work", default="build/bench-steps")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--steps", type=int, default=60)
    o = p.parse_args()
    t.EBB = os.path.abspath(o.ebb)
    work = os.path.abspath(o.work)
    os.makedirs(work, exist_ok=True)
    if not os.path.exists(f"{work}/data"):
        t.dense_data(work, 20000, 784, 10, 1)
        t.run(["pack", f"{work}/x.npy", f"{work}/data", "--target", f"{work}/y.npy"])
    with open(f"{work}/run.yaml", "w") as f:
        f.write(f"data: {{train: {work}/data}}\nmodel: {{layers: [{{linear: {{out: 512}}}}, {{relu: {{}}}}, {{linear: {{out: 256}}}}, {{relu: {{}}}}, {{linear: {{}}}}]}}\n"
                f"train: {{epochs: 1000, batch: 3072, optimizer: {{adam: {{lr: 0.001}}}}}}\nrun: {{dir: {work}/runs}}\n")
    for ranks in (2, 4):
        compare(work, f"{ranks} ranks x 1 thread, batch 3072", ranks, o.steps,
                {"canonical": ["train.sync=canonical", "train.threads=1"], "fast": ["train.sync=fast", "train.threads=1"]}, o.repeats)
    for rows in (32, 64, 128, 170):
        compare(work, f"1 rank x 2 threads, 24 lanes of {rows} rows beside 2 lanes of {12 * rows}", 0, o.steps,
                {"24 lanes": ["lanes=24", "train.threads=2", f"train.batch={24 * rows}"], "undivided": ["lanes=2", "train.threads=2", f"train.batch={24 * rows}"]}, o.repeats)


if __name__ == "__main__":
    main()
