#!/usr/bin/env python3
"""Speed of `ebb pack` by source and number of threads, runs taking turns.

  bench_pack.py --ebb build/release/apps/ebb [--rows 300000] [--repeats 5]

Prints MB of text a second (median, fastest and slowest of the repeats), user seconds, the compression ratio, and how much faster two threads are
than one. All thread counts must give the same bytes.
"""
import argparse
import filecmp
import os
import random
import shutil
import statistics
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../support"))
import ebbtest as t


def csv_data(path, rows, seed):
    """Ten numbers, two categories and a target a row."""
    rng = random.Random(seed)
    with open(path, "w") as f:
        f.write(",".join(f"n{i}" for i in range(10)) + ",city,job,y\n")
        for _ in range(rows):
            numbers = ",".join(f"{rng.gauss(0, 1):.6g}" for _ in range(10))
            f.write(f"{numbers},city{int(5000 * rng.random() ** 3)},job{rng.randrange(40)},{rng.randrange(2)}\n")


def seconds(args):
    """Wall and user seconds of one ebb process."""
    start = time.monotonic()
    pid = os.posix_spawn(t.EBB, [t.EBB] + [str(a) for a in args], os.environ,
                         file_actions=[(os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0)])
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        t.fail(f"{args}: status {status}")
    return time.monotonic() - start, usage.ru_utime


def same_bytes(one, other):
    names = sorted(os.listdir(one))
    if names != sorted(os.listdir(other)) or filecmp.cmpfiles(one, other, [n for n in names if n.startswith("shard")], shallow=False)[1]:
        t.fail(f"{one} and {other} differ")


def measure(text, work, threads, repeats):
    wall, user = {j: [] for j in threads}, {j: [] for j in threads}
    for turn in range(repeats + 1):
        for j in threads:
            w, u = seconds(["pack", "-q", "-j", j, "--force", text, f"{work}/out{j}"])
            if turn > 0:  # the first one warms up
                wall[j].append(w)
                user[j].append(u)
    for j in threads[1:]:
        same_bytes(f"{work}/out{threads[0]}", f"{work}/out{j}")
    size = os.path.getsize(text)
    packed = sum(os.path.getsize(f"{work}/out{threads[0]}/{n}") for n in os.listdir(f"{work}/out{threads[0]}"))
    for j in threads:
        rate = sorted(size / 1e6 / w for w in wall[j])
        print(f"{os.path.basename(text):12} {size / 1e6:7.1f} MB  threads {j}  {statistics.median(rate):6.1f} MB/s ({rate[0]:.1f} .. {rate[-1]:.1f})  "
              f"user {min(user[j]):5.2f} s  ratio {size / packed:5.2f}  speed-up {statistics.median(a / b for a, b in zip(wall[threads[0]], wall[j])):.2f}",
              flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ebb", default=os.environ.get("EBB", "build/release/apps/ebb"))
    p.add_argument("--work", default="build/bench-pack")
    p.add_argument("--rows", type=int, default=300000)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--threads", default="1,2")
    o = p.parse_args()
    t.EBB, work = os.path.abspath(o.ebb), os.path.abspath(o.work)
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    t.sparse_data(f"{work}/rows.svm", o.rows, 100003, 40, 3, 1)
    csv_data(f"{work}/rows.csv", o.rows, 2)
    a9a = t.shared("a9a/a9a")
    if a9a:
        with open(a9a, "rb") as f, open(f"{work}/a9a.svm", "wb") as out:
            out.write(f.read() * 50)
    for name in ("a9a.svm", "rows.svm", "rows.csv"):
        if os.path.exists(f"{work}/{name}"):
            measure(f"{work}/{name}", work, [int(j) for j in o.threads.split(",")], o.repeats)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
