#!/usr/bin/env python3
"""The same bits for any number of ranks and threads, and after being stopped and resumed on another number of ranks.

Trains logistic regressions and MLPs, sparse and dense, on data whose row counts divide nothing evenly, and compares
SHA-256 of weights and of optimiser state and the order hash of every epoch. Prints a table; exits 1 at the first difference.
--backend NAME does so on another backend (several ranks share its device), whose losses and evaluation must then be close to the
CPU's; where it cannot be opened the test is skipped. --precision is that of its products.
"""
import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbtest as t

MODELS = {
    "sparse-logistic": """
data: {{train: {data}/sparse, block_rows: 64, window_blocks: 4}}
model: {{layers: [{{linear: {{}}}}]}}
train: {{batch: 130, optimizer: {{sgd: {{lr: 0.5, momentum: 0.9, l2: 1e-5}}}}, schedule: {{cosine: {{warmup: 0.1}}}}}}
""",
    "sparse-mlp": """
data: {{train: {data}/sparse, block_rows: 64, window_blocks: 4}}
model: {{layers: [{{linear: {{out: 20}}}}, {{relu: {{}}}}, {{dropout: {{p: 0.2}}}}, {{linear: {{}}}}]}}
train: {{batch: 130, clip_norm: 1.0, optimizer: {{adam: {{lr: 0.01}}}}}}
""",
    "sparse-unclipped": """
data: {{train: {data}/sparse, block_rows: 64, window_blocks: 4}}
model: {{layers: [{{linear: {{out: 20}}}}, {{relu: {{}}}}, {{linear: {{}}}}]}}
train: {{batch: 130, optimizer: {{adamw: {{lr: 0.01}}}}, rows: sparse}}
""",
    "dense-mlp": """
data: {{train: {data}/dense, block_rows: 64, window_blocks: 4}}
model: {{layers: [{{linear: {{out: 33}}}}, {{gelu: {{}}}}, {{layer_norm: {{}}}}, {{linear: {{}}}}]}}
train: {{batch: 130, accumulate: 2, class_weights: balanced, optimizer: {{adamw: {{lr: 0.01}}}}}}
""",
    # large enough, and in one piece, so that lanes are added to their neighbours' sums by their own products
    "dense-wide-mlp": """
data: {{train: {data}/dense, block_rows: 64, window_blocks: 4}}
model: {{layers: [{{linear: {{out: 300}}}}, {{relu: {{}}}}, {{linear: {{out: 40}}}}, {{relu: {{}}}}, {{linear: {{}}}}]}}
train: {{batch: 650, optimizer: {{adam: {{lr: 0.01}}}}}}
""",
    # so many chunks that they are the blocks of the order, and of unequal numbers of rows in the last shard
    "chunks-logistic": """
data: {{train: {data}/chunks}}
lanes: 8
model: {{layers: [{{linear: {{}}}}]}}
train: {{batch: 401, optimizer: {{adam: {{lr: 0.001}}}}}}
""",
}


def make_data(folder, models):
    if any(m.startswith("sparse") for m in models):
        t.sparse_data(f"{folder}/sparse.svm", 5003, 20011, 20, 3, 1)
        t.run(["pack", f"{folder}/sparse.svm", f"{folder}/sparse", "--shard-bytes", "256KiB"])
    if any(m.startswith("dense") for m in models):
        t.dense_data(folder, 4999, 37, 5, 2)
        t.run(["pack", f"{folder}/x.npy", f"{folder}/dense", "--target", f"{folder}/y.npy"])
    if any(m.startswith("chunks") for m in models):
        rows, cols, rng = 25013, 360, random.Random(3)
        t.write_npy(f"{folder}/bytes.npy", "|u1", (rows, cols), rng.randbytes(rows * cols))
        t.write_npy(f"{folder}/bytes_y.npy", "<i4", (rows,), [rng.randrange(3) for _ in range(rows)])
        t.run(["pack", f"{folder}/bytes.npy", f"{folder}/chunks", "--target", f"{folder}/bytes_y.npy", "--shard-bytes", "3MiB"])


def write_run(folder, model, steps, backend):
    path = f"{folder}/{model}.yaml"
    with open(path, "w") as f:
        f.write(MODELS[model].format(data=folder))
        f.write(f"run: {{dir: {folder}/runs}}\n")
    return ["train", path, "--set", "train.epochs=1000", "--set", f"train.max_steps={steps}", "--set", "data.memory=64MiB",
            "--set", f"train.backend={backend}"]


def fingerprint(run_dir):
    record = t.record(run_dir)
    orders = {m["epoch"]: m["order_hash"] for m in t.metrics(run_dir) if "order_hash" in m}
    return {"weights": record["weights_sha256"], "optimizer": record["optimizer_sha256"], "steps": record["steps"],
            "orders": orders}


def compare(what, got, want):
    if got != want:
        t.fail(f"{what}: differs\n  got  {got}\n  want {want}")


def compare_with_cpu(folder, args, model, ours, precision):
    """The same rows in the same order, and nearly the same losses and predictions, as on the CPU, which knows fp32 alone."""
    run_dir = f"{folder}/runs/{model}-cpu"
    near = 1e-3 if precision == "fp32" else 1e-2
    t.run(args + ["--set", f"run.name={model}-cpu", "--set", "train.backend=cpu", "--set", "train.precision=fp32"])
    epochs = ([m for m in t.metrics(d) if "train_loss" in m] for d in (ours, run_dir))  # lines of steps come by the clock
    pairs = list(zip(*epochs))
    for mine, cpu in pairs:
        if mine["order_hash"] != cpu["order_hash"] or abs(mine["train_loss"] - cpu["train_loss"]) > near * (1 + cpu["train_loss"]):
            t.fail(f"{model}: epoch {mine['epoch']} has loss {mine['train_loss']} and order {mine['order_hash']}, "
                   f"on the CPU {cpu['train_loss']} and {cpu['order_hash']}")
    data = f"{folder}/{model.split('-')[0]}"
    ours, cpu = (json.loads(t.run(["eval", d, data, "--json"]).stdout)["metrics"] for d in (ours, run_dir))
    for name, value in cpu.items():
        if abs(ours[name] - value) > 0.01 * (1 + abs(value)):
            t.fail(f"{model}: eval gives {name} {ours[name]}, the CPU {value}")
    print(f"{model:16} {len(pairs)} epochs and evaluation as on the CPU")


def can_open(folder, args, backend):
    done = t.run(args + ["--set", "run.name=probe", "--set", "train.max_steps=1"], ok=False)
    if done.returncode == 69:
        print(f"SKIPPED: {done.stderr.strip().splitlines()[-1]}")
        sys.exit(t.SKIP)


def stopped_and_resumed(folder, args, model, first, then):
    """Stop by a signal in mid-epoch on `first` ranks, go on with `then` ranks."""
    name = f"{model}-stop-{first}-{then}"
    run_dir = f"{folder}/runs/{name}"
    # A record on disk per step tells when the run is well under way.
    job = subprocess.Popen(t.command(args + ["--set", f"run.name={name}", "--log-every", "1"], first), stdout=subprocess.DEVNULL,
                           stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    deadline = time.time() + 120
    while time.time() < deadline and job.poll() is None:
        if os.path.exists(f"{run_dir}/metrics.jsonl") and sum(1 for _ in open(f"{run_dir}/metrics.jsonl")) > 30:
            break
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)
    _, err = job.communicate(timeout=120)
    if job.returncode != 75:
        t.fail(f"{name}: a signal should end the run with exit code 75, not {job.returncode}\n{err}")
    t.run(["train", "--resume", run_dir], then)
    return run_dir


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--ranks", default="1,2,3,4,5,8")
    parser.add_argument("--threads", default="1,2,3")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "tf32", "bf16"))
    options = parser.parse_args()
    ranks, threads = ([int(n) for n in s.split(",")] for s in (options.ranks, options.threads))
    with tempfile.TemporaryDirectory(prefix="ebb-bits-") as folder:
        models = options.models.split(",")
        make_data(folder, models)
        for model in models:
            args = write_run(folder, model, options.steps, options.backend)
            if options.precision != "fp32":
                args += ["--set", f"train.precision={options.precision}"]
            if options.backend != "cpu":
                can_open(folder, args, options.backend)
            want = None
            for r in ranks:
                for n in threads:
                    name = f"{model}-{r}x{n}"
                    start = time.time()
                    t.run(args + ["--set", f"run.name={name}", "--set", f"train.threads={n}"], r)
                    got = fingerprint(f"{folder}/runs/{name}")
                    want = want or got
                    print(f"{model:16} ranks {r} threads {n}  weights {got['weights'][:16]}  state {got['optimizer'][:16]}  "
                          f"epochs {len(got['orders'])}  {time.time() - start:5.1f} s", flush=True)
                    compare(name, got, want)
            for first, then in ((2, 3), (3, 1)):
                got = fingerprint(stopped_and_resumed(folder, args, model, first, then))
                print(f"{model:16} stopped on {first} ranks, resumed on {then}: weights {got['weights'][:16]}", flush=True)
                compare(f"{model} stopped and resumed", got, want)
            if options.backend != "cpu":
                compare_with_cpu(folder, args, model, f"{folder}/runs/{model}-{ranks[0]}x{threads[0]}", options.precision)
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
