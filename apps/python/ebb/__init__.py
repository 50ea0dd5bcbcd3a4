"""Ebb's loader: shuffled batches of compressed sparse or dense data as NumPy, SciPy and PyTorch, without copies.

    import ebb

    ds = ebb.open("data/train")                      # rows, columns, classes ...; ds[0:10] reads rows
    loader = ebb.Loader("data/train", batch=4096, seed=1)
    for epoch in range(5):
        for batch in loader:                         # one epoch; the next loop is the next epoch
            batch.x, batch.y, batch.weight, batch.rows   # scipy.sparse.csr_matrix or ndarray, labels, weights, row numbers
            batch.torch()                            # the same as tensors, through DLPack
    state = loader.state_dict()                      # 40 bytes and the order's settings; load_state_dict() goes on

The order of rows is a pure function of (seed, epoch, position): the same for any number of ranks and threads, and as in
C. ebb.torch.IterableDataset is the loader for PyTorch's DataLoader and DDP. NumPy is needed, SciPy for batch.x of sparse
data, PyTorch for ebb.torch. libebb is found by EBB_LIBRARY, beside this module's installation, or by the system's loader.
"""
from ._batch import Batch
from ._dataset import Dataset, Field, open
from ._library import (CorruptError, DataError, Error, InvalidError, NotFoundError, OutOfMemoryError, StorageError,
                       UnavailableError)
from ._library import path as library_path
from ._library import version as __version__
from ._loader import Loader

__all__ = ["Batch", "CorruptError", "DataError", "Dataset", "Error", "Field", "InvalidError", "Loader", "NotFoundError",
           "OutOfMemoryError", "StorageError", "UnavailableError", "library_path", "open"]
