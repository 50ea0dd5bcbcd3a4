#!/usr/bin/env python3
"""Peak memory of pack and train on a data set and on one ten times larger.

  bench_memory.py --ebb build/release/apps/ebb [--rows 100000]

Prints peak resident memory (of the process, from wait4) for both sizes; they should be equal but for noise.
"""
import argparse
import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../support"))
import ebbtest as t


def peak(args):
    """Peak resident bytes of one ebb process."""
    pid = os.posix_spawn(t.EBB, [t.EBB] + [str(a) for a in args], os.environ,
                         file_actions=[(os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0)])
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        t.fail(f"{args}: status {status}")
    return usage.ru_maxrss * 1024


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ebb", default=os.environ.get("EBB", "build/release/apps/ebb"))
    p.add_argument("--work", default="build/bench-memory")
    p.add_argument("--rows", type=int, default=150000)
    o = p.parse_args()
    t.EBB, work = os.path.abspath(o.ebb), os.path.abspath(o.work)
    os.makedirs(work, exist_ok=True)
    t.sparse_data(f"{work}/base.svm", o.rows, 100003, 60, 3, 1)
    for times in (1, 10):
        text, data = f"{work}/x{times}.svm", f"{work}/x{times}"
        with open(text, "wb") as out:
            for _ in range(times):
                with open(f"{work}/base.svm", "rb") as f:
                    shutil.copyfileobj(f, out)
        with open(f"{work}/run.yaml", "w") as f:
            f.write(f"data: {{train: {data}, memory: 64MiB, window_blocks: 4}}\nmodel: {{layers: [{{linear: {{out: 16}}}}, {{relu: {{}}}}, {{linear: {{}}}}]}}\n"
                    f"train: {{epochs: 1, batch: 1536}}\nrun: {{dir: {work}/runs}}\n")
        shutil.rmtree(f"{work}/runs", ignore_errors=True)
        pack = peak(["pack", text, data, "--force", "--memory", "64MiB"])
        train = peak(["train", f"{work}/run.yaml"])
        print(f"{o.rows * times:10d} rows, {os.path.getsize(text) / 1e6:8.1f} MB of text: pack {pack / 1e6:7.1f} MB, train {train / 1e6:7.1f} MB", flush=True)


if __name__ == "__main__":
    main()
