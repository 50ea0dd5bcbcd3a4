"""Batches as PyTorch tensors, and the loader as an IterableDataset that knows its rank.

    from torch.utils.data import DataLoader
    import ebb.torch

    data = ebb.torch.IterableDataset("data/train", batch=4096, seed=1)       # rank and ranks from torch.distributed
    for batch in DataLoader(data, batch_size=None):                          # one epoch
        loss = cross_entropy(model(batch.x), batch.y, reduction="sum") * data.ranks / batch.global_rows

DistributedDataParallel takes the mean of the ranks' gradients; with a loss so scaled that is the gradient of the mean over
the whole step, also in the last step of an epoch, where ranks can differ by a row or have none.
"""
import os
from collections import namedtuple

try:
    import torch
    import torch.utils.data
except ModuleNotFoundError:  # what else keeps PyTorch from being imported it says best itself
    raise ImportError("ebb.torch needs PyTorch: pip install torch; batches as NumPy and SciPy do without it") from None

from ._batch import writable
from ._loader import Loader

TorchBatch = namedtuple("TorchBatch", "x y weight rows global_rows")
TorchBatch.__doc__ = """A batch as tensors: x sparse CSR or dense (float32, or values="stored"'s type), y class numbers (int64) or reals (float32),
weight and row numbers; None for what the data set has not. global_rows: rows of the step in all ranks."""


def tensor(array):
    """An array as a tensor over the same memory, through DLPack. The tensor keeps the memory; it must not be written to."""
    return None if array is None else torch.from_dlpack(writable(array))


def tensors(batch):
    """A TorchBatch over the memory of an ebb.Batch.

    Copied are only the row pointers, narrowed to the columns' 32 bits because PyTorch wants one index type, columns that
    are stored in 16 bits, widened to them, and class numbers, widened to the 64 bits that its losses want.
    """
    if batch.sparse:
        indptr = batch._narrow_indptr()
        indices = tensor(batch._wide_indices())
        x = torch.sparse_csr_tensor(tensor(indptr), indices if indptr.itemsize == 4 else indices.long(),
                                    tensor(batch.data), size=batch.shape, check_invariants=False)
    else:
        x = tensor(batch.x)
    y = tensor(batch.y)
    if y is not None and not y.is_floating_point():
        y = y.long()
    return TorchBatch(x, y, tensor(batch.weight), tensor(batch.rows), batch.global_rows)


def place():
    """(rank, ranks): of torch.distributed, else what torchrun says in the environment, else one rank alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


class IterableDataset(torch.utils.data.IterableDataset):
    """The loader as a data set for DataLoader(data, batch_size=None): yields TorchBatch.

    Takes what ebb.Loader takes. rank and ranks are asked of torch.distributed when the first epoch begins, unless given.
    Each iteration is one epoch, the next iteration the next one; set_epoch(epoch) goes elsewhere. state_dict() and
    load_state_dict() may be used before the first iteration and with another number of ranks.
    """

    def __init__(self, data, batch=4096, *, rank=None, ranks=None, **options):
        super().__init__()
        if (rank is None) != (ranks is None):
            raise ValueError("rank and ranks belong together: give both, or neither to ask torch.distributed")
        self._arguments = (data, batch), options
        self._place = None if rank is None else (rank, ranks)
        self._loader = None

    @property
    def loader(self):
        """The ebb.Loader, made at first use."""
        if torch.utils.data.get_worker_info() is not None:
            raise RuntimeError("ebb reads ahead by threads of its own: use DataLoader(..., num_workers=0)")
        if self._loader is None:
            rank, ranks = self._place or place()
            arguments, options = self._arguments
            self._loader = Loader(*arguments, rank=rank, ranks=ranks, **options)
        return self._loader

    @property
    def rank(self):
        return self.loader.rank

    @property
    def ranks(self):
        return self.loader.ranks

    def __len__(self):
        """Steps of an epoch."""
        return len(self.loader)

    def __iter__(self):
        return map(tensors, self.loader)

    def set_epoch(self, epoch):
        self.loader.set_epoch(epoch)

    def state_dict(self):
        return self.loader.state_dict()

    def load_state_dict(self, state):
        self.loader.load_state_dict(state)

    def close(self):
        """End the threads; the next use makes a new loader from the start."""
        if self._loader:
            self._loader.close()
            self._loader = None

    def __getstate__(self):
        return {**self.__dict__, "_loader": None}
