#!/usr/bin/env python3
"""PyTorch's side of bench_train.py: the same model on the same packed data, in one of PyTorch's own ways.

Reads the shards with h5py + hdf5plugin into memory once (its best: the data fits), then trains `epochs` epochs over shuffled batches.
Prints JSON: seconds from the first read to the last step, rows, final training loss; with --save also the seconds that torch.save of
model and optimiser states and then of the model takes, each synced to disk. Imports and warm-up are not counted; whoever starts this
process can time it whole.
"""
import argparse
import glob
import json
import os
import time

import h5py
import hdf5plugin  # noqa: F401 (registers the filter)
import numpy as np
import torch


def read(folder):
    parts = []
    for path in sorted(glob.glob(f"{folder}/shard-*.h5")):
        with h5py.File(path) as f:
            x, y = f["X"], f["obs/y/codes"][:]
            if isinstance(x, h5py.Group):
                parts.append((x["data"][:].astype(np.float32), x["indices"][:].astype(np.int64), x["indptr"][:], y))
            else:
                parts.append((x[:].astype(np.float32), y))
    y = torch.from_numpy(np.concatenate([p[-1] for p in parts]).astype(np.int64).ravel())
    if len(parts[0]) == 2:
        return torch.from_numpy(np.concatenate([p[0] for p in parts])), y
    offset, pointers = 0, [np.zeros(1, np.int64)]
    for p in parts:
        pointers.append(p[2][1:] + offset)
        offset += p[2][-1]
    return (np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), np.concatenate(pointers)), y


def gather(csr, rows):
    """CSR of the given rows, by whole-array operations."""
    val, col, ptr = csr
    start, count = ptr[rows], ptr[rows + 1] - ptr[rows]
    out = np.concatenate([[0], np.cumsum(count)])
    at = np.repeat(start - out[:-1], count) + np.arange(out[-1])
    return torch.from_numpy(val[at]), torch.from_numpy(col[at]), torch.from_numpy(out)


class SparseMLP(torch.nn.Module):
    def __init__(self, way, cols, hidden, classes):
        super().__init__()
        self.way, self.cols, self.hidden = way, cols, hidden
        if way.startswith("bag"):
            self.first = torch.nn.EmbeddingBag(cols, hidden, mode="sum", sparse=way == "bag-sparse", include_last_offset=True)
            torch.nn.init.normal_(self.first.weight, std=0.1)
        else:
            self.weight = torch.nn.Parameter(torch.randn(cols, hidden) * 0.1)
        self.bias = torch.nn.Parameter(torch.zeros(hidden))
        self.second = torch.nn.Linear(hidden, classes)

    def forward(self, val, col, ptr):
        if self.way.startswith("bag"):
            h = self.first(col, ptr, per_sample_weights=val)
        elif self.way == "csr":
            h = torch.sparse_csr_tensor(ptr, col, val, (len(ptr) - 1, self.cols)) @ self.weight
        else:  # densified
            x = torch.zeros(len(ptr) - 1, self.cols)
            x[torch.repeat_interleave(torch.arange(len(ptr) - 1), ptr.diff()), col] = val
            h = x @ self.weight
        return self.second(torch.relu(h + self.bias))


def optimizers(model, way, lr):
    if way == "bag-sparse":
        rest = [p for n, p in model.named_parameters() if n != "first.weight"]
        return [torch.optim.SparseAdam([model.first.weight], lr=lr), torch.optim.Adam(rest, lr=lr)]
    return [torch.optim.Adam(model.parameters(), lr=lr, fused=True)]


def save(state, path):
    """As durable as Ebb's: a temporary file, synced, renamed, the folder synced."""
    with open(path + ".tmp", "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())
    os.rename(path + ".tmp", path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("data")
    p.add_argument("--way", choices=["bag-sparse", "bag-dense", "csr", "densified", "dense", "dense-compiled"], required=True)
    p.add_argument("--cols", type=int, required=True)
    p.add_argument("--classes", type=int, required=True)
    p.add_argument("--hidden", default="64")
    p.add_argument("--batch", type=int, default=1536)
    p.add_argument("--epochs", type=int, default=3)
    p.add_argument("--max-steps", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--scale", type=float, default=1.0)
    p.add_argument("--lr", type=float, default=0.001)
    p.add_argument("--save", help="folder for the checkpoint and the model")
    o = p.parse_args()
    torch.set_num_threads(o.threads)
    torch.manual_seed(1)
    hidden = [int(h) for h in o.hidden.split(",")]
    if o.way.startswith("dense-") or o.way == "dense":
        widths = [o.cols] + hidden + [o.classes]
        layers = []
        for a, b in zip(widths, widths[1:]):
            layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
        model = torch.nn.Sequential(*layers[:-1])
        step_model = torch.compile(model) if o.way == "dense-compiled" else model
        if o.way == "dense-compiled":
            step_model(torch.zeros(o.batch, o.cols)).sum().backward()
            model.zero_grad()
    else:
        step_model = model = SparseMLP(o.way, o.cols, hidden[0], o.classes)
    optims = optimizers(model, o.way, o.lr)
    loss_of = torch.nn.CrossEntropyLoss()
    start = time.perf_counter()
    x, y = read(o.data)
    n, done, last = len(y), 0, 0.0
    if o.scale != 1.0:
        x = x * o.scale
    for _ in range(o.epochs):
        order = torch.randperm(n)
        for i in range(0, n, o.batch):
            rows = order[i:i + o.batch]
            batch = (x[rows],) if torch.is_tensor(x) else gather(x, rows.numpy())
            loss = loss_of(step_model(*batch), y[rows])
            for opt in optims:
                opt.zero_grad()
            loss.backward()
            for opt in optims:
                opt.step()
            done += len(rows)
            last = loss.detach()
            if o.max_steps and done >= o.max_steps * o.batch:
                break
        if o.max_steps and done >= o.max_steps * o.batch:
            break
    result = {"way": o.way, "seconds": time.perf_counter() - start, "rows": done, "loss": float(last)}
    if o.save:
        start = time.perf_counter()
        save({"model": model.state_dict(), "optimizers": [opt.state_dict() for opt in optims]}, f"{o.save}/checkpoint.pt")
        save(model.state_dict(), f"{o.save}/model.pt")
        result["save_seconds"] = time.perf_counter() - start
    print(json.dumps(result))


if __name__ == "__main__":
    main()
