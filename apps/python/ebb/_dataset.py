"""Data sets: what they are, and their rows in storage order."""
import os
import threading
from collections import namedtuple
from ctypes import byref, c_void_p

from ._batch import Batch
from ._library import TARGETS, call, lib, numpy

Field = namedtuple("Field", "name begin end categorical")
Field.__doc__ = "A named group of columns [begin, end), e.g. one categorical column of a CSV file hashed to a range."


class Handle:
    """An open data set of the library, which loaders made of it keep open when this is gone."""

    def __init__(self, path, dataset):
        self.pointer, self._drop = c_void_p(), lib.ebb_shared_dataset_drop
        call("ebb_shared_dataset_open", os.fsencode(path), dataset.encode() if dataset else None, byref(self.pointer))
        self.dataset = lib.ebb_shared_dataset_get(self.pointer)
        self.info = lib.ebb_dataset_info(self.dataset)

    def __del__(self):
        self._drop(self.pointer)


class Reader:
    """Decodes rows, one caller at a time; destroyed with the last reference, and before its data set."""

    def __init__(self, handle):
        self.handle, self.pointer, self.lock = handle, c_void_p(), threading.Lock()
        self._destroy = lib.ebb_reader_destroy
        call("ebb_reader_create", handle.dataset, 0, byref(self.pointer))

    def __del__(self):
        self._destroy(self.pointer)


def open(path, dataset=None):
    """Open a data set folder, or a .h5ad, 10x or plain HDF5 file as it is.

    dataset: within a foreign file the group or 2-D dataset to read, optionally with the targets' path after a colon
    ("raw/X:obs/bulk_labels").
    """
    return Dataset(path, dataset)


class Dataset:
    """A data set. `ds[i:j]` reads rows in storage order; ebb.Loader(ds) gives shuffled batches.

    name, rows, columns, nnz, sparse, shape, hash; bytes and shards on disk
    dtype        of the values in batches (float32); value_type: as stored ("f32", "f16", "u8", ...)
    target       "class", "real" or None; target_columns of them
    classes      names of the classes in the order of their numbers, () for reals; class_rows: rows of each
    weighted     whether there is a weight per row
    fields       named groups of columns, where the source had any
    """

    def __init__(self, path, dataset=None):
        self.path = os.fspath(path)
        self._handle = Handle(path, dataset)
        self._reader = None
        info = self._handle.info.contents
        self.name, self.hash = info.name.decode(), info.hash.decode()
        self.rows, self.columns, self.nnz, self.sparse = info.rows, info.cols, info.nnz, info.sparse
        self.value_type = lib.ebb_value_type_name(info.value_type).decode()
        self.target, self.target_columns, self.weighted = TARGETS[info.target], info.target_cols, info.weighted
        self.classes = tuple(info.class_names[i].decode("utf-8", "replace") for i in range(info.classes))
        self.class_rows = tuple(info.class_rows[i] for i in range(info.classes)) if info.class_rows else ()
        self.fields = tuple(Field(f.name.decode("utf-8", "replace"), f.begin, f.end, f.categorical)
                            for f in info.fields[:info.n_fields])
        self.bytes, self.shards = info.bytes, info.n_shards

    @property
    def shape(self):
        return (self.rows, self.columns)

    @property
    def dtype(self):
        return numpy().dtype("float32")

    def __len__(self):
        return self.rows

    def __repr__(self):
        kind = f"{self.nnz} non-zeros" if self.sparse else "dense"
        targets = {None: "no targets", "class": f"{len(self.classes)} classes",
                   "real": f"{self.target_columns} real targets"}[self.target]
        return f"<ebb.Dataset {self.name}: {self.rows} x {self.columns}, {kind}, {targets}>"

    def handle(self):
        if self._handle is None:
            raise ValueError(f"the data set {self.name} is closed")
        return self._handle

    def __getitem__(self, rows):
        """Rows i:j (or row i) in storage order, as a Batch that owns its memory."""
        if isinstance(rows, slice):
            begin, end, step = rows.indices(self.rows)
            if step != 1:
                raise ValueError("rows are read in storage order: a step other than 1 is not possible")
            return self._read(begin, max(0, end - begin))
        row = rows.__index__()
        if not -self.rows <= row < self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        return self._read(row % self.rows, 1)

    def _read(self, row0, n):
        np, handle = numpy(), self.handle()
        if self._reader is None:
            self._reader = Reader(handle)
        reader = self._reader
        csr = dense = label = real = None
        weight = np.empty(n, np.float32) if self.weighted else None
        if self.target == "class":
            label = np.empty(n, np.int32)
        elif self.target == "real":
            real = np.empty((n, self.target_columns) if self.target_columns > 1 else n, np.float32)

        def read(name, *arrays):
            if n:
                call(name, reader.pointer, row0, n, *(None if a is None else a.ctypes.data for a in arrays))

        with reader.lock:
            if self.sparse:
                indptr = np.zeros(n + 1, np.int64)
                if n:
                    call("ebb_reader_rowptr", reader.pointer, row0, n, 0, indptr.ctypes.data)
                csr = (indptr, np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32))
                read("ebb_reader_csr", csr[1], csr[2])
            else:
                dense = np.empty((n, self.columns), np.float32)
                read("ebb_reader_dense", dense)
            if self.target or self.weighted:
                read("ebb_reader_targets", label, real, weight)
        return Batch(self.columns, np.arange(row0, row0 + n), real if label is None else label, weight, csr, dense)

    def close(self):
        """Give the data set up; loaders that use it keep it open as long as they need it."""
        self._handle = self._reader = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()
