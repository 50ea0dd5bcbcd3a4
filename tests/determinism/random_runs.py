#!/usr/bin/env python3
"""Property: a run gives the same bits alone on one thread and on any ranks x threads, stopped and resumed or not.

Each seed draws data (svmlight, CSV with categorical columns and row weights, dense), a model, a loss, an optimiser and settings;
the run is made alone on one thread, and again on drawn ranks and threads, perhaps stopped by a signal or killed on the way and
resumed on others. Hashes of weights and optimiser state, model files' metrics and the epochs' lines of metrics.jsonl must be equal.
A seed that fails is printed; --first SEED --count 1 --keep repeats it.
"""
import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbtest as t


# ---- data ----

def make_svmlight(rng, path, rows, kind, classes):
    cols = rng.choice([5, 40, 700, 20000])
    with open(path, "w") as f:
        for _ in range(rows):
            n = min(cols, int(rng.expovariate(1 / rng.choice([3, 20]))))
            columns = sorted({1 + int(cols * rng.random() ** 3) for _ in range(n)})
            f.write(label(rng, kind, classes) + "".join(f" {c}:{rng.gauss(0, 1):.3f}" for c in columns) + "\n")
    return [path]


def make_csv(rng, path, rows, kind, classes):
    words = ["w%d" % i for i in range(rng.choice([3, 50, 500]))]
    weighted = rng.random() < 0.5
    with open(path, "w") as f:
        f.write("y,a,b,n,weight\n")
        for _ in range(rows):
            weight = rng.choice([0, 0.5, 1, 3.25]) if weighted else 1
            f.write(f"{label(rng, kind, classes)},{rng.choice(words)},{rng.choice(words)},{rng.gauss(0, 1):.4f},{weight}\n")
    weight = "weight:weight" if weighted else "weight:ignore"
    return [path, "--columns", f"a:categorical,b:categorical,n:numeric,{weight}", "--target", "y", "--hash-bits", "8"]


def make_dense(rng, path, rows, kind, classes):
    cols = rng.choice([1, 7, 33])
    t.write_npy(path + ".x.npy", "<f4", (rows, cols), [rng.gauss(0, 1) for _ in range(rows * cols)])
    values = [float(label(rng, kind, classes)) for _ in range(rows)]
    if kind == "class":
        t.write_npy(path + ".y.npy", "<i4", (rows,), [int(v) for v in values])
    else:
        t.write_npy(path + ".y.npy", "<f4", (rows,), values)
    return [path + ".x.npy", "--target", path + ".y.npy"]


def label(rng, kind, classes):
    if kind == "class":
        return str(rng.randrange(classes))
    return str(rng.randrange(6)) if kind == "count" else f"{rng.gauss(1, 2):.3f}"


# ---- the run ----

def draw_model(rng, source, kind, classes):
    loss = {"class": "softmax_cross_entropy", "count": "poisson", "real": rng.choice(["squared", "{huber: {delta: 0.7}}"])}[kind]
    if kind == "class" and classes == 2 and rng.random() < 0.7:
        loss = "binary_cross_entropy"
    one_output = loss != "softmax_cross_entropy"
    if source != "dense" and one_output and rng.random() < 0.25:
        return loss, [f"fm: {{rank: {rng.choice([1, 4, 7])}}}"]
    layers = []
    if source == "csv" and rng.random() < 0.5:
        layers.append(f"embedding: {{dim: {rng.choice([1, 5, 16])}}}")
    for _ in range(rng.choice([0, 1, 1, 2])):
        layers.append(f"linear: {{out: {rng.choice([1, 8, 19])}, bias: {rng.choice(['true', 'false'])}}}")
        layers.extend(rng.sample(["relu: {}", "gelu: {}", "tanh: {}", "sigmoid: {}", "layer_norm: {}", "dropout: {p: 0.3}"], rng.choice([0, 1, 2])))
    return loss, layers + ["linear: {}"]


def draw_run(rng, folder, rows, has_valid, loss, layers, kind):
    lanes = rng.randint(1, min(24, rows))
    batch = rng.randint(lanes, max(lanes, min(rows + 10, lanes * rng.choice([1, 3, 20]))))
    penalties = f"l1: {rng.choice([0, 0.001])}, l2: {rng.choice([0, 0.01])}"
    optimizer = rng.choice([f"sgd: {{lr: 0.05, momentum: {rng.choice([0, 0.9])}, nesterov: {rng.choice(['true', 'false'])}, {penalties}}}",
                            f"adagrad: {{lr: 0.05, {penalties}}}", f"adam: {{lr: 0.01, {penalties}}}",
                            "adamw: {lr: 0.01, weight_decay: 0.05}", f"ftrl: {{lr: 0.1, {penalties}}}"])
    warmup = rng.choice(["", "warmup: 0.2", "warmup: 5"])
    schedule = rng.choice([f"constant: {{{warmup}}}", f"step: {{every: 7, factor: 0.8{warmup and ', ' + warmup}}}", f"cosine: {{{warmup}}}",
                           f"one_cycle: {{{warmup}}}"]) if not optimizer.startswith("ftrl") else "constant: {}"
    data = {"train": f"{folder}/data/train" if has_valid else f"{folder}/data", "block_rows": rng.choice([0, 1, 3, 16, 64]),
            "window_blocks": rng.choice([1, 2, 8]), "shuffle": rng.random() < 0.9, "threads": rng.choice([1, 1, 3]), "depth": rng.choice([1, 2, 3]),
            "memory": "64MiB", "row_l2": rng.random() < 0.2, "scale": rng.choice([1, 0.5])}
    train = {"epochs": rng.choice([1, 2, 3]), "max_steps": rng.choice([0, 0, 0, 37]), "batch": batch, "accumulate": rng.randint(1, min(3, batch // lanes)),
             "seed": rng.randrange(1 << 40), "clip_norm": rng.choice([0, 0, 0.3]), "rows": rng.choice(["auto", "sparse", "dense"])}
    if has_valid:
        data["valid"] = f"{folder}/data/valid"
        if rng.random() < 0.4:
            train["early_stopping"] = {"metric": "loss", "patience": rng.choice([1, 2]), "min_delta": rng.choice([0, 0.05])}
    if kind == "class" and rng.random() < 0.3:
        train["class_weights"] = "balanced"
    text = f"run: {{dir: {folder}/runs}}\nlanes: {lanes}\ndata: {json.dumps(data)}\nmodel:\n  loss: {loss}\n  layers:\n"
    text += "".join(f"    - {layer}\n" for layer in layers)
    text += "train:\n  optimizer: {%s}\n  schedule: {%s}\n" % (optimizer, schedule)
    text += "".join(f"  {key}: {json.dumps(value)}\n" for key, value in train.items())
    text += f"checkpoint: {{every_steps: {rng.choice([0, 1, 5])}, every_minutes: {rng.choice([0, 0.001])}, keep: {rng.choice([1, 2])}}}\n"
    with open(f"{folder}/run.yaml", "w") as f:
        f.write(text)
    return lanes


def prepare(rng, folder):
    """Data and run file; the result is the number of lanes."""
    rows = rng.choice([rng.randint(25, 60), rng.randint(60, 400), rng.randint(400, 1500)])
    source = rng.choice(["svmlight", "svmlight", "csv", "dense"])
    kind = rng.choice(["class", "class", "count", "real"])
    classes = rng.choice([2, 2, 3, 5])
    make = {"svmlight": make_svmlight, "csv": make_csv, "dense": make_dense}[source]
    args = make(rng, f"{folder}/source", rows, kind, classes)
    has_valid = rng.random() < 0.6
    args += [f"{folder}/data", "--task", "class" if kind == "class" else "real", "--shard-bytes", rng.choice(["4KiB", "1MiB"])]
    t.run(["pack"] + args + (["--split", "train=0.7,valid=0.3"] if has_valid else []))
    inspect = json.loads(t.run(["inspect", "--json", f"{folder}/data/train" if has_valid else f"{folder}/data"]).stdout)
    loss, layers = draw_model(rng, source, kind, classes)
    return draw_run(rng, folder, inspect["rows"], has_valid, loss, layers, kind)


# ---- alone, and on many ranks with or without a break ----

def fingerprint(run_dir):
    record = t.record(run_dir)
    epochs = [{k: v for k, v in m.items() if k not in ("seconds", "time")} for m in t.metrics(run_dir) if "order_hash" in m]
    return {"weights": record["weights_sha256"], "optimizer": record["optimizer_sha256"], "steps": record["steps"],
            "metrics": record.get("metrics"), "epochs": epochs}


def steps_logged(run_dir):
    try:
        with open(f"{run_dir}/metrics.jsonl") as f:
            return sum('"checkpoint"' in line or '"step"' in line for line in f)
    except OSError:
        return 0


def interrupt(rng, args, run_dir, ranks):
    """Start the run and end it by a signal at a drawn moment; whether it has finished before."""
    job = subprocess.Popen(t.command(args, ranks), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    wanted, deadline = rng.choice([0, 1, 3, 10, 30]), time.time() + 300
    while job.poll() is None and time.time() < deadline and steps_logged(run_dir) < max(1, wanted):
        time.sleep(0.002)
    rank = t.rank_pid(job.pid, rng.randrange(ranks))  # not mpirun, which may die of it while it leaves
    if rank:
        os.kill(rank, signal.SIGUSR1)
    _, err = job.communicate(timeout=300)
    if job.returncode not in (0, 75):
        t.fail(f"a stopped run should exit 75, or 0 if it was over, not {job.returncode}\n{err}")
    return job.returncode == 0


def check(seed, folder):
    rng = random.Random(seed)
    lanes = prepare(rng, folder)
    args = ["train", f"{folder}/run.yaml"]
    t.run(args + ["--set", "run.name=alone", "--set", "train.threads=1"])
    want = fingerprint(f"{folder}/runs/alone")
    many = f"{folder}/runs/many"
    ranks, threads = rng.randint(1, min(5, lanes)), rng.randint(1, 3)
    args += ["--set", "run.name=many", "--set", f"train.threads={threads}", "--log-every", "1"]
    story = f"{lanes} lanes, {want['steps']} steps, {ranks} ranks x {threads}"
    if rng.random() < 0.5:
        t.run(args, ranks)
    else:
        finished = interrupt(rng, args, many, ranks)
        again = rng.randint(1, min(5, lanes))
        resume = ["train", "--resume", many, "--set", f"train.threads={rng.randint(1, 3)}", "--set", f"train.rows={rng.choice(['auto', 'sparse', 'dense'])}"]
        story += f", {'over before the signal' if finished else 'stopped'}, resumed on {again}"
        t.run(resume, again)
    got = fingerprint(many)
    if got != want:
        t.fail(f"seed {seed} ({story}): differs\n  got  {json.dumps(got)}\n  want {json.dumps(want)}\n{open(folder + '/run.yaml').read()}")
    return story


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000000)
    parser.add_argument("--seconds", type=float, default=40, help="begin no new case after so long")
    parser.add_argument("--keep", action="store_true", help="leave the last case's folder")
    options = parser.parse_args()
    start, done = time.time(), 0
    for seed in range(options.first, options.first + options.count):
        if time.time() - start > options.seconds:
            break
        folder = tempfile.mkdtemp(prefix="ebb-random-")
        try:
            print(f"seed {seed}: {check(seed, folder)}", flush=True)
        finally:
            if options.keep:
                print(f"kept {folder}")
            else:
                shutil.rmtree(folder)
        done += 1
    print(f"{done} passed, 0 failed")


if __name__ == "__main__":
    main()
