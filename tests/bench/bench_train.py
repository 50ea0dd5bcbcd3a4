#!/usr/bin/env python3
"""Training, end to end from packed shards on disk: Ebb beside PyTorch on the CPU, same model, batch, threads and data, in one run.

  bench_train.py --ebb build/release/apps/ebb [--peers DIR] [--repeats 3] [--only sparse|dense]

The peers (PyTorch, h5py, hdf5plugin: the newest that install) go into a virtual environment of this script's own in DIR (default
build/peers). Sparse: this machine's Debian package index, 2^18 hashed columns, MLP of 64 hidden units. Dense: Fashion-MNIST
784-512-256-10 where the data is there (EBB_SHARED or ../shared/data), else noise of that shape. Three times of each, like for like:
the run alone (first read to last step); the work (the same, and checkpoint and model synced to disk); the whole process (with start-up:
imports and compilation of PyTorch, loading and exit of Ebb). Prints medians, spread and the ratios to PyTorch's best way.
"""
import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../support"))
import ebbtest as t


def peers(folder):
    python = f"{folder}/bin/python"
    if not os.path.exists(python):
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    if subprocess.run([python, "-c", "import torch, h5py, hdf5plugin"], capture_output=True).returncode != 0:
        if subprocess.run([python, "-m", "pip", "install", "-q", "torch", "h5py", "hdf5plugin", "numpy"]).returncode != 0:
            print("SKIPPED: PyTorch cannot be installed here")
            sys.exit(t.SKIP)
    return python


def pack_sparse(work):
    data = f"{work}/sections"
    if not os.path.exists(data):
        with open(f"{work}/packages.txt", "w") as f:
            subprocess.run(["apt-cache", "dumpavail"], stdout=f, check=True)
        t.run(["pack", f"{work}/packages.txt", data, "--from", "deb822", "--hash-bits", 18])
    return data


def pack_dense(work):
    data, images = f"{work}/images", t.shared("fashion-mnist/train-images-idx3-ubyte.gz")
    if os.path.exists(data):
        return data
    if images:
        t.run(["pack", images, data, "--target", t.shared("fashion-mnist/train-labels-idx1-ubyte.gz")])
    else:
        t.dense_data(work, 20000, 784, 10, 1)
        t.run(["pack", f"{work}/x.npy", data, "--target", f"{work}/y.npy"])
    return data


def ebb_run(work, data, hidden, o, scale, repeat):
    path = f"{work}/run.yaml"
    layers = "".join(f"{{linear: {{out: {h}}}}}, {{relu: {{}}}}, " for h in hidden)
    with open(path, "w") as f:
        f.write(f"data: {{train: {data}, scale: {scale}}}\nmodel: {{loss: softmax_cross_entropy, layers: [{layers}{{linear: {{}}}}]}}\n"
                f"train: {{epochs: {o.epochs}, batch: {o.batch}, optimizer: {{adam: {{lr: 0.001}}}}, threads: {o.threads}}}\n"
                f"run: {{dir: {work}/runs, name: r{repeat}}}\n")
    shutil.rmtree(f"{work}/runs", ignore_errors=True)
    start = time.perf_counter()
    t.run(["train", path], timeout=3600)
    seconds = time.perf_counter() - start
    epochs = [m for m in t.metrics(f"{work}/runs/r{repeat}") if "train_loss" in m]
    record = t.record(f"{work}/runs/r{repeat}")
    return {"process": seconds, "run": epochs[-1]["seconds"], "work": record["seconds"], "rows": o.epochs * record["data"]["rows"],
            "loss": epochs[-1]["train_loss"]}


def torch_run(python, work, data, way, info, hidden, o, scale):
    os.makedirs(f"{work}/torch", exist_ok=True)
    start = time.perf_counter()
    done = subprocess.run([python, f"{HERE}/torch_train.py", data, "--way", way, "--cols", str(info["cols"]), "--classes", str(info["classes"]),
                           "--hidden", ",".join(map(str, hidden)), "--batch", str(o.batch), "--epochs", str(o.epochs), "--threads", str(o.threads),
                           "--scale", str(scale), "--save", f"{work}/torch", "--max-steps", "20" if way in ("densified",) else "0"],
                          capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        return {"failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"}
    r = json.loads(done.stdout.splitlines()[-1])
    return {"process": seconds, "run": r["seconds"], "work": r["seconds"] + r["save_seconds"], "rows": r["rows"], "loss": r["loss"]}


SPANS = ["run", "work", "process"]


def table(title, python, work, data, hidden, ways, o, scale=1.0):
    info = json.loads(t.run(["inspect", data, "--json"]).stdout)
    info["classes"] = len(info["classes"])
    print(f"\n{title}: {info['rows']} rows x {info['cols']} columns, {info['classes']} classes, hidden {hidden}, batch {o.batch}, "
          f"{o.epochs} epochs, {o.threads} threads")
    rates = {}
    for repeat in range(o.repeats):
        results = {"ebb": ebb_run(work, data, hidden, o, scale, repeat)}
        results.update({f"torch {way}": torch_run(python, work, data, way, info, hidden, o, scale) for way in ways})
        for name, r in results.items():
            if "failed" in r:
                print(f"  {name:20} cannot run: {r['failed']}")
                ways = [w for w in ways if f"torch {w}" != name]
            else:
                rates.setdefault(name, []).append(r)
    medians = {name: {span: statistics.median(r["rows"] / r[span] for r in v) for span in SPANS} for name, v in rates.items()}
    print(f"  rows/s, median (least .. most): {', '.join(SPANS)}")
    for name, v in rates.items():
        speeds = [f"{medians[name][span]:9.0f} ({min(r['rows'] / r[span] for r in v):.0f} .. {max(r['rows'] / r[span] for r in v):.0f})" for span in SPANS]
        print(f"  {name:20} {'  '.join(speeds)}   last loss {v[-1]['loss']:.4f}")
    best = {span: max((m[span] for name, m in medians.items() if name != "ebb"), default=float("nan")) for span in SPANS}
    ratio = {span: medians["ebb"][span] / best[span] for span in SPANS}
    print("  ebb / best of PyTorch: " + ", ".join(f"{span} {ratio[span]:.2f}x" for span in SPANS))
    return {"title": title, "ebb_rows_per_s": medians["ebb"], "torch_best_rows_per_s": best, "ratio": ratio}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ebb", default=os.environ.get("EBB", "build/release/apps/ebb"))
    p.add_argument("--peers", default="build/peers")
    p.add_argument("--work", default="build/bench-train")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--epochs", type=int, default=3)
    p.add_argument("--batch", type=int, default=4096)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--only", choices=["sparse", "dense"])
    p.add_argument("--all-ways", action="store_true", help="sparse: also PyTorch's CSR tensors and densified rows, which take minutes")
    o = p.parse_args()
    t.EBB = os.path.abspath(o.ebb)
    os.makedirs(o.work, exist_ok=True)
    python, work = peers(os.path.abspath(o.peers)), os.path.abspath(o.work)
    version = subprocess.run([python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True).stdout.strip()
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    print(f"{cpu}, {os.cpu_count()} cores; {t.run(['--version']).stdout.strip()}; PyTorch {version}")
    results = []
    if o.only != "dense" and shutil.which("apt-cache"):
        results.append(table("sparse MLP", python, work, pack_sparse(work), [64], ["bag-sparse", "bag-dense"] + (["csr", "densified"] if o.all_ways else []), o))
    if o.only != "sparse":
        results.append(table("dense MLP", python, work, pack_dense(work), [512, 256], ["dense", "dense-compiled"], o, 1 / 255))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
