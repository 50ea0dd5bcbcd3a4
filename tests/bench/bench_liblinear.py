#!/usr/bin/env python3
"""Sparse logistic regression beside LIBLINEAR (Debian's liblinear-tools) on the same rows, in one run.

  bench_liblinear.py --ebb build/release/apps/ebb [--data sections|a9a|FILE.svm] [--repeats 3]

LIBLINEAR: `liblinear-train -s 0` (L2-regularised logistic regression, its defaults otherwise, best of a few C when --tune), timed
with its parsing; held-out accuracy and log loss from `liblinear-predict -b 1`. Ebb: `ebb pack` of the same text plus `ebb train` until the
first evaluation whose held-out log loss is at or below LIBLINEAR's. Prints medians and spread.
"""
import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../support"))
import ebbtest as t


def sections_text(work):
    """The machine's package index as svmlight text, split as `ebb pack` splits it."""
    if os.path.exists(f"{work}/train.svm"):
        return f"{work}/train.svm", f"{work}/valid.svm"
    with open(f"{work}/packages.txt", "w") as f:
        subprocess.run(["apt-cache", "dumpavail"], stdout=f, check=True)
    t.run(["pack", f"{work}/packages.txt", f"{work}/packed", "--from", "deb822", "--split", "train=0.9,valid=0.1", "--hash-bits", 18, "--force"])
    for part in ("train", "valid"):
        t.run(["export", f"{work}/packed/{part}", f"{work}/{part}.svm"])
    return f"{work}/train.svm", f"{work}/valid.svm"


def liblinear(work, train, valid, c):
    start = time.perf_counter()
    subprocess.run(["liblinear-train", "-s", "0", "-q", "-c", str(c), train, f"{work}/liblinear.model"], check=True)
    seconds = time.perf_counter() - start
    subprocess.run(["liblinear-predict", "-q", "-b", "1", valid, f"{work}/liblinear.model", f"{work}/liblinear.out"], check=True)
    truth = [line.split(None, 1)[0] for line in open(valid)]
    with open(f"{work}/liblinear.out") as f:
        labels = f.readline().split()[1:]
        rows = [line.split() for line in f]
    right = sum(float(r[0]) == float(y) for r, y in zip(rows, truth))
    place = {float(l): i for i, l in enumerate(labels)}
    loss = sum(-math.log(max(float(r[1 + place[float(y)]]), 1e-15)) if float(y) in place else 34.5 for r, y in zip(rows, truth))
    return seconds, right / len(truth), loss / len(truth)


def ebb(work, train, valid, o, target):
    shutil.rmtree(f"{work}/ebb", ignore_errors=True)
    os.makedirs(f"{work}/ebb")
    start = time.perf_counter()
    t.run(["pack", train, f"{work}/ebb/train"])
    pack = time.perf_counter() - start
    t.run(["pack", valid, f"{work}/ebb/valid", "--like", f"{work}/ebb/train"])
    with open(f"{work}/ebb/run.yaml", "w") as f:
        f.write(f"data: {{train: {work}/ebb/train, valid: {work}/ebb/valid}}\nmodel: {{layers: [{{linear: {{}}}}]}}\n"
                f"train: {{epochs: {o.epochs}, batch: {o.batch}, optimizer: {o.optimizer}, schedule: {o.schedule}}}\n"
                f"eval: {{metrics: 'log_loss,accuracy'}}\nrun: {{dir: {work}/ebb/runs}}\n")
    start = time.perf_counter()
    t.run(["train", f"{work}/ebb/run.yaml"], timeout=3600)
    whole = time.perf_counter() - start
    epochs = [m for m in t.metrics(f"{work}/ebb/runs/run") if "order_hash" in m]
    start_up = whole - epochs[-1]["seconds"]
    reached = next((m["seconds"] for m in epochs if m["valid_log_loss"] <= target), None)
    best = min(epochs, key=lambda m: m["valid_log_loss"])
    return pack, None if reached is None else reached + start_up, max(m["valid_accuracy"] for m in epochs), best["valid_log_loss"], whole


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ebb", default=os.environ.get("EBB", "build/release/apps/ebb"))
    p.add_argument("--work", default="build/bench-liblinear")
    p.add_argument("--data", default="sections")
    p.add_argument("--c", default="1")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--epochs", type=int, default=5)
    p.add_argument("--batch", type=int, default=1536)
    p.add_argument("--optimizer", default="{adagrad: {lr: 0.3}}")
    p.add_argument("--schedule", default="constant")
    o = p.parse_args()
    if not shutil.which("liblinear-train"):
        print("SKIPPED: liblinear-tools is not installed")
        sys.exit(t.SKIP)
    t.EBB = os.path.abspath(o.ebb)
    work = os.path.abspath(f"{o.work}/{o.data}")
    os.makedirs(work, exist_ok=True)
    train, valid = sections_text(work) if o.data == "sections" else (t.shared("a9a/a9a"), t.shared("a9a/a9a.t"))
    theirs = {c: liblinear(work, train, valid, c) for c in map(float, o.c.split(","))}
    c = min(theirs, key=lambda k: theirs[k][2])
    accuracy, loss = theirs[c][1:]
    seconds = [theirs[c][0]] + [liblinear(work, train, valid, c)[0] for _ in range(o.repeats - 1)]
    ours = [ebb(work, train, valid, o, loss) for _ in range(o.repeats)]
    print(f"LIBLINEAR -s 0 -c {c:g}: {statistics.median(seconds):.2f} s with parsing ({min(seconds):.2f} .. {max(seconds):.2f}), held-out accuracy {accuracy:.4f}, log loss {loss:.4f}")
    reached = [r[0] + r[1] for r in ours if r[1] is not None]
    print(f"Ebb: pack {statistics.median(r[0] for r in ours):.2f} s, train to that log loss "
          + (f"{statistics.median(r[1] for r in ours if r[1] is not None):.2f} s; together {statistics.median(reached):.2f} s ({min(reached):.2f} .. {max(reached):.2f})" if reached else "not reached")
          + f"; best held-out accuracy {ours[-1][2]:.4f}, log loss {ours[-1][3]:.4f}; whole run {ours[-1][4]:.2f} s")
    print(json.dumps({"liblinear_s": statistics.median(seconds), "ebb_s": statistics.median(reached) if reached else None,
                      "accuracy_points": 100 * (ours[-1][2] - accuracy)}))


if __name__ == "__main__":
    main()
