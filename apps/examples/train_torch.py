#!/usr/bin/env python3
"""A PyTorch model on Ebb's loader, alone or on several processes:

    python3 train_torch.py data/train
    torchrun --nproc-per-node 2 train_torch.py data/train

Sparse rows go through EmbeddingBag, which reads only the touched rows of its table; dense rows through Linear.
"""
import argparse
import os

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import ebb
import ebb.torch


class Model(nn.Module):
    def __init__(self, data, hidden):
        super().__init__()
        self.sparse = data.sparse
        self.first = nn.EmbeddingBag(data.columns, hidden, mode="sum") if data.sparse else nn.Linear(data.columns, hidden)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(hidden, len(data.classes)))

    def forward(self, x):
        if self.sparse:
            x = self.first(x.col_indices(), x.crow_indices()[:-1], per_sample_weights=x.values())
        else:
            x = self.first(x)
        return self.rest(x)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1536, help="rows per step, of all processes together")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--checkpoint", default="model.pt")
    o = parser.parse_args()
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    torch.manual_seed(1)
    data = ebb.torch.IterableDataset(o.data, batch=o.batch, seed=1)
    model = Model(ebb.open(o.data), o.hidden)
    forward = DistributedDataParallel(model) if data.ranks > 1 else model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    loader = DataLoader(data, batch_size=None)
    if os.path.exists(o.checkpoint):  # go on with the batch after the last one that was trained on, on any number of processes
        state = torch.load(o.checkpoint)
        data.load_state_dict(state["data"])
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    for epoch in range(data.loader.epoch, o.epochs):
        total = torch.zeros(2)
        for batch in loader:
            optimizer.zero_grad()
            loss = cross_entropy(forward(batch.x), batch.y, reduction="sum")
            (loss * data.ranks / batch.global_rows).backward()  # DDP takes the mean over ranks
            optimizer.step()
            total += torch.tensor([loss.item(), len(batch.rows)])
        if data.ranks > 1:
            torch.distributed.all_reduce(total)
        if data.rank == 0:
            print(f"epoch {epoch + 1}/{o.epochs}  loss {total[0] / total[1]:.4f}  of {int(total[1])} rows", flush=True)
            torch.save({"data": data.state_dict(), "model": model.state_dict(), "optimizer": optimizer.state_dict()},
                       o.checkpoint)
    data.close()
    if data.ranks > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
