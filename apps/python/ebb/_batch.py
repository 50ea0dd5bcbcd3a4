"""Batches: rows as NumPy arrays, SciPy matrices and PyTorch tensors over one piece of memory."""
from functools import cache

from . import _library
from ._library import numpy


class _Memory:
    """Memory at an address, for NumPy; an array made of it keeps `owner` alive."""

    __slots__ = ("__array_interface__", "owner")

    def __init__(self, address, shape, typestr, owner, readonly=True):
        self.__array_interface__ = {"version": 3, "data": (address, readonly), "shape": shape, "typestr": typestr}
        self.owner = owner


def view(address, shape, dtype, owner):
    """A read-only array over memory that lives as long as owner; None for no address."""
    np = numpy()
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.asarray(_Memory(address, shape, np.dtype(dtype).str, owner)) if address else None


def writable(array):
    """The same memory, not marked read-only: DLPack has no such mark that every consumer understands."""
    if array.flags.writeable or array.size == 0:
        return array
    np = numpy()
    return np.asarray(_Memory(array.ctypes.data, array.shape, array.dtype.str, array, readonly=False))


class Batch:
    """Some rows of a data set.

    x        scipy.sparse.csr_matrix, or a dense array of (rows, columns); of float32, or of the values' stored type where
             the loader was asked for that
    y        class numbers (int32), or real targets (float32; two-dimensional where there are several); None: no targets
    weight   float32 per row, or None where the data set has none
    rows     numbers of the rows within the data set (int64)
    indptr, indices, data   the same rows as x in CSR form, as libebb has them (int64, int32, float32; stored: int64,
             uint16 up to 65,536 columns, the values' type); None when dense
    lanes    array with fields lane, first, n: which rows of the batch are of which lane; None unless of a loader
    epoch, step             where in the order it comes, None unless of a loader
    global_rows             rows that all ranks have in this step

    Arrays are read-only views of the loader's memory, which stays theirs as long as any of them, or of what was made of
    them, is alive. copy() makes a batch that owns its memory and may be written to.
    """

    __slots__ = ("rows", "y", "weight", "indptr", "indices", "data", "lanes", "epoch", "step", "global_rows", "_x",
                 "_columns")

    def __init__(self, columns, rows, y=None, weight=None, csr=None, dense=None, lanes=None, epoch=None, step=None,
                 global_rows=None):
        self.rows, self.y, self.weight, self.lanes = rows, y, weight, lanes
        self.indptr, self.indices, self.data = csr or (None, None, None)
        self.epoch, self.step = epoch, step
        self.global_rows = len(rows) if global_rows is None else global_rows
        self._x, self._columns = dense, columns

    @property
    def sparse(self):
        return self.indptr is not None

    @property
    def shape(self):
        return (len(self.rows), self._columns)

    def __len__(self):
        return len(self.rows)

    def __repr__(self):
        kind = f"{len(self.data)} non-zeros" if self.sparse else "dense"
        at = "" if self.step is None else f", epoch {self.epoch} step {self.step}"
        return f"<ebb.Batch {self.shape[0]} x {self.shape[1]}, {kind}{at}>"

    def _narrow_indptr(self):
        """Row pointers of the columns' type: SciPy and PyTorch want one type for both."""
        np = numpy()
        return self.indptr.astype(np.int32) if len(self.data) <= np.iinfo(np.int32).max else self.indptr

    def _wide_indices(self):
        """Columns of 32 bits: what SciPy and PyTorch take; the same array where it has them."""
        return self.indices.astype(numpy().int32, copy=False)

    @property
    def x(self):
        if self._x is None:
            try:
                from scipy.sparse import csr_matrix
            except ImportError:
                raise ImportError("batch.x of sparse data is a SciPy matrix, and SciPy is not here: apt install "
                                  "python3-scipy, or pip install scipy; batch.indptr, .indices and .data need only "
                                  "NumPy, batch.torch() only PyTorch") from None
            self._x = csr_matrix((self.data, self._wide_indices(), self._narrow_indptr()), shape=self.shape, copy=False)
        return self._x

    def torch(self):
        """The batch as PyTorch tensors over the same memory: an ebb.torch.TorchBatch."""
        from . import torch as bridge

        return bridge.tensors(self)

    def copy(self):
        """A batch that owns its memory."""
        def own(array):
            return None if array is None else array.copy()

        return Batch(self._columns, own(self.rows), own(self.y), own(self.weight),
                     csr=tuple(map(own, (self.indptr, self.indices, self.data))) if self.sparse else None,
                     dense=None if self.sparse else own(self._x), lanes=own(self.lanes), epoch=self.epoch,
                     step=self.step, global_rows=self.global_rows)


def leased(record, info, owner, global_rows):
    """The batch of a record of the library, whose memory lives as long as owner."""
    np = numpy()
    n, nnz = record.rows, record.nnz
    several = (n, info.target_cols) if info.target_cols > 1 else (n,)
    csr = dense = None
    if info.sparse:
        csr = (view(record.rowptr, (n + 1,), np.int64, owner),
               view(record.columns, (nnz,), dtype_of(record.column_type), owner),
               view(record.values, (nnz,), dtype_of(record.value_type), owner))
    else:
        dense = view(record.values, (n, info.cols), dtype_of(record.value_type), owner)
    y = None
    if info.target:
        y = view(record.label, (n,), np.int32, owner) if record.label else view(record.y, several, np.float32, owner)
    size = _library.ctypes.sizeof(_library.LaneRows)
    lanes = view(record.lanes, (record.n_lanes * size,), np.uint8, owner).view(lane_rows())
    return Batch(info.cols, view(record.row, (n,), np.int64, owner), y,
                 view(record.weight, (n,), np.float32, owner) if info.weighted else None, csr, dense, lanes,
                 record.epoch, record.step, global_rows)


@cache
def dtype_of(value_type):
    """NumPy's type for an ebb_value_type_t: "u8" is uint8."""
    name = _library.lib.ebb_value_type_name(value_type).decode()
    return numpy().dtype(f"{name[0]}{int(name[1:]) // 8}")


@cache
def lane_rows():
    """NumPy's name for ebb_lane_rows_t."""
    struct = _library.LaneRows
    return numpy().dtype({"names": ["lane", "first", "n"], "formats": ["i4", "i8", "i8"],
                          "offsets": [struct.lane.offset, struct.first.offset, struct.n.offset],
                          "itemsize": _library.ctypes.sizeof(struct)})
