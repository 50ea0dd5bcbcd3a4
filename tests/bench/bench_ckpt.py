#!/usr/bin/env python3
"""What a checkpoint every 100 steps costs a model of 50 M parameters with Adam (600 MB a checkpoint).

  bench_ckpt.py --build build/release [--cycles 10] [--window 8] [--ranks 0] [--batch 1536] [--work build/bench-ckpt]

One run, which checkpoints every 2 x window steps: windows of steps in which a checkpoint is copied and written take turns with windows in which
none is. The cost of a checkpoint is the difference of the two windows' time, and its share is that of 100 steps. Beside it, which a busy machine disturbs
less: the time that training stood still, and the writer's processor time (at most so much was taken from training). The disk is written to past the
page cache in the same run, before and after.
"""
import argparse
import json
import math
import mmap
import os
import random
import shutil
import statistics
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../support"))
import ebbtest as t

COLS, HIDDEN, ROWS = 2048, (8192, 4000), 6144


def interval(values):
    """Median and its 95 % interval by order statistics."""
    v = sorted(values)
    low = max(0, math.floor(len(v) / 2 - 0.98 * math.sqrt(len(v))))
    return statistics.median(v), v[low], v[len(v) - 1 - low]


def disk_speed(folder, bytes_=600_000_000, piece=4 << 20):
    """MB/s of writing so much in whole pieces past the page cache, with fsync."""
    path, page = f"{folder}/disk", mmap.mmap(-1, piece)
    page.write(random.Random(1).randbytes(piece))
    start = time.time()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    except OSError:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    for _ in range(bytes_ // piece):
        os.write(fd, page)
    os.fsync(fd)
    os.close(fd)
    seconds = time.time() - start
    os.unlink(path)
    return bytes_ / seconds / 1e6


def prepare(o):
    os.makedirs(o.work, exist_ok=True)
    if not os.path.exists(f"{o.work}/data"):
        rng = random.Random(1)
        t.write_npy(f"{o.work}/y.npy", "<i4", (ROWS,), [rng.randrange(10) for _ in range(ROWS)])
        header = "{'descr': '|u1', 'fortran_order': False, 'shape': (%d, %d), }" % (ROWS, COLS)
        with open(f"{o.work}/x.npy", "wb") as f:
            f.write(b"\x93NUMPY\x01\x00" + (117).to_bytes(2, "little") + header.ljust(116).encode() + b"\n" + rng.randbytes(ROWS * COLS))
        t.run(["pack", "-q", f"{o.work}/x.npy", f"{o.work}/data", "--target", f"{o.work}/y.npy"])
    with open(f"{o.work}/run.yaml", "w") as f:
        f.write(f"data: {{train: {o.work}/data, scale: 0.004}}\nmodel: {{layers: [{{linear: {{out: {HIDDEN[0]}}}}}, {{relu: {{}}}}, {{linear: {{out: {HIDDEN[1]}}}}}, {{relu: {{}}}}, "
                f"{{linear: {{}}}}]}}\ntrain: {{epochs: 100000, batch: {o.batch}, optimizer: {{adam: {{lr: 0.0001}}}}}}\nrun: {{dir: {o.work}/runs, name: ckpt}}\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build/release")
    p.add_argument("--work", default="build/bench-ckpt")
    p.add_argument("--cycles", type=int, default=10)
    p.add_argument("--window", type=int, default=8, help="steps; a checkpoint must be written within as many")
    p.add_argument("--batch", type=int, default=1536)
    p.add_argument("--ranks", type=int, default=0)
    p.add_argument("--json", help="write the figures here")
    o = p.parse_args()
    if o.cycles < 2:
        p.error("--cycles: at least 2, the first of which is not counted")
    o.build, o.work = os.path.abspath(o.build), os.path.abspath(o.work)
    t.EBB = f"{o.build}/apps/ebb"
    prepare(o)
    shutil.rmtree(f"{o.work}/runs", ignore_errors=True)
    disk = [disk_speed(o.work)]
    cycle = 2 * o.window
    t.run(["train", "-q", f"{o.work}/run.yaml", "--log-every", "1", "--set", f"checkpoint.every_steps={cycle}", "--set", "checkpoint.keep=1",
           "--set", f"train.max_steps={cycle * (o.cycles + 1)}"], o.ranks, timeout=7200)
    disk.append(disk_speed(o.work))
    lines = t.metrics(f"{o.work}/runs/ckpt")
    at = {m["step"]: m["seconds"] for m in lines if m["kind"] == "step"}
    saved = {m["step"]: m for m in lines if m["kind"] == "checkpoint"}
    step = {s: at[s] - at[s - 1] for s in at if s - 1 in at}
    starts = [c * cycle for c in range(2, o.cycles + 1)]  # the first snapshot's memory is new, and not counted
    busy = [[step[s + i] for i in range(1, o.window + 1)] for s in starts]
    idle = [[step[s + i] for i in range(o.window + 1, cycle + 1)] for s in starts]
    late = [s for s in starts if saved[s]["write_seconds"] > sum(busy[starts.index(s)])]
    plain = statistics.median(x for w in idle for x in w)
    cost = [sum(b) - sum(i) for b, i in zip(busy, idle)]
    share = [100 * c / (100 * plain) for c in cost]
    figures = {"parameters": t.record(f"{o.work}/runs/ckpt")["parameters"], "batch": o.batch, "ranks": o.ranks or 1, "cycles": len(starts), "disk_mb_s": disk,
               "step_without": interval([x for w in idle for x in w]), "step_with": interval([x for w in busy for x in w]),
               "cost_seconds": interval(cost), "cost_percent_of_100_steps": interval(share),
               "stood_still": interval([saved[s]["wait_seconds"] for s in starts]), "first_stood_still": saved[cycle]["wait_seconds"],
               "writer_cpu": interval([saved[s]["cpu_seconds"] for s in starts]), "written_in": interval([saved[s]["write_seconds"] for s in starts]),
               "last_waited": saved[cycle * (o.cycles + 1)]["wait_seconds"], "late": len(late)}
    print(f"{figures['parameters'] / 1e6:.1f} M parameters, {figures['parameters'] * 12e-6:.0f} MB a checkpoint, batch {o.batch}, {figures['ranks']} rank(s); "
          f"disk {disk[0]:.0f} MB/s before, {disk[1]:.0f} MB/s after; {len(starts)} cycles")
    for key, unit, text in (("step_without", "s", "a step without a checkpoint"), ("step_with", "s", "a step while one is taken and written"),
                            ("cost_seconds", "s", "a checkpoint costs"), ("cost_percent_of_100_steps", "%", "of 100 steps (wanted: <= 1)"),
                            ("stood_still", "s", "of it training stood still"), ("writer_cpu", "s", "the writer's processor time"),
                            ("written_in", "s", "from the copy to the file in place")):
        print("  %-42s %8.3f %s  [%.3f %.3f]" % (text, figures[key][0], unit, *figures[key][1:]))
    upper = 100 * (figures["stood_still"][0] + figures["writer_cpu"][0]) / (100 * plain)
    print(f"  standing still and the writer's processor time, of 100 steps: {upper:.3f} %; the first copy, into new memory: {figures['first_stood_still']:.3f} s; "
          f"the last checkpoint, waited for: {figures['last_waited']:.3f} s" + (f"; {len(late)} were written for longer than a window: raise --window" if late else ""))
    if o.json:
        with open(o.json, "w") as f:
            json.dump(figures, f, indent=1)


if __name__ == "__main__":
    main()
