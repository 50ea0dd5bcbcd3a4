"""The loader: shuffled batches in the order, and with the cursor, that C has.

Memory. A batch is a lease of the C loader's memory (ebb/share.h). Every array over it keeps an array made of the lease
by DLPack, whose deleter is C: the lease ends with the last array, in whatever thread, with no Python code that an
interrupt could cut short. The C loader ends when the Loader is closed or gone and no lease is out. So nothing that
Python can reach lies in memory that was given back, and nothing waits for the garbage collector.

Position. What the caller was given is counted here; where an interrupt (Ctrl-C) ended a call of the C loader after it
had moved on, the next call moves it back, so that no row is lost.
"""
import atexit
import ctypes
import os
import re
import threading
import weakref
from ctypes import byref, c_void_p

from . import _batch
from ._dataset import Dataset
from ._library import END, Cursor, InvalidError, Options, Order, Stats, call, lib, numpy

_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, (c_void_p, ctypes.c_char_p, c_void_p)
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def _bytes(size):
    """A number of bytes, or "256MiB"."""
    if not isinstance(size, str):
        return _whole("memory", size, 1, 2**62)
    match = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]*)\s*", size)
    if not match or match[2].lower() not in _UNITS or match[1].count(".") > 1:
        raise ValueError(f'memory "{size}" is no size: write a number of bytes, or for example "256MiB" or "1.5GB"')
    return _whole("memory", int(float(match[1]) * _UNITS[match[2].lower()]), 1, 2**62)


def _whole(name, value, least, most):
    """A whole number within bounds; ctypes would cut others short without a word."""
    try:
        number = value.__index__()
    except AttributeError:
        number = least - 1
    if not least <= number <= most:
        raise InvalidError(f"{name} must be a whole number from {least} to {most}, not {value}")
    return number


class _Lease:
    """A lease on its way to NumPy, which asks for a DLPack capsule and then owns it."""

    def __init__(self):
        self.pointer = c_void_p()
        call("ebb_lease_create", byref(self.pointer))

    def __dlpack__(self, **_):
        return _capsule(lib.ebb_lease_dlpack(self.pointer), b"dltensor", None)

    def __dlpack_device__(self):
        return (1, 0)


class Core:
    """A C loader, which batches that are out keep when this is gone."""

    def __init__(self, handle, options):
        self.process, self.pointer = os.getpid(), c_void_p()
        lease = _Lease()
        self._owner = numpy().from_dlpack(lease)
        call("ebb_lease_create_loader", lease.pointer, handle.pointer, byref(options), byref(self.pointer))
        self.loader = lib.ebb_shared_loader_get(self.pointer)

    def acquire(self):
        """The next batch's record and the owner of its memory; None at the end of the epoch."""
        lease = _Lease()
        owner = numpy().from_dlpack(lease)  # owned before it is filled: an interrupt at any place leaves nothing behind
        status = call("ebb_lease_acquire", lease.pointer, self.pointer)
        return None if status == END else (lib.ebb_lease_batch(lease.pointer).contents, owner)

    def held(self):
        return lib.ebb_shared_loader_held(self.pointer)

    def seek(self, epoch, step):
        call("ebb_shared_loader_seek", self.pointer, epoch, step)

    def restore(self, cursor):
        call("ebb_shared_loader_restore", self.pointer, byref(cursor))

    def cursor(self):
        cursor = Cursor()
        lib.ebb_loader_cursor(self.loader, byref(cursor))
        return cursor

    def position(self):
        cursor = self.cursor()
        return cursor.epoch, cursor.step

    def stats(self):
        stats = Stats()
        lib.ebb_loader_stats(self.loader, byref(stats))
        return stats


_loaders = weakref.WeakSet()


@atexit.register
def _close_all():
    """No thread of the library works on while the process takes itself apart."""
    for loader in list(_loaders):
        loader.close()


class Loader:
    """Shuffled batches of a data set, read ahead by threads of the library within a memory budget.

    data            a path, or what ebb.open gave; dataset: within a foreign file, see ebb.open
    batch           rows per step of all ranks together
    lanes           logical workers, into which the order is cut; the order depends on it, so keep it for a run
    seed, shuffle   of the order; shuffle=False: storage order, still cut into lanes
    rank, ranks     deliver this rank's share of every step. All ranks together deliver what one rank would
    threads         read-ahead threads; memory: budget in bytes or as "256MiB"; depth: batches at once, at least 3
    block_rows, window_blocks   of the shuffle: rows are permuted in blocks over the data set, then one by one in windows; 0:
                    what suits the data
    values          "float": float32, with int32 columns; "stored": both in the types of the shards (batch.x of bytes is
                    uint8), which takes less time and memory, here and on the way to a GPU. Without the changes below
    row_sum, log1p, row_l2, scale   changes to each row's values, in this order: sum, logarithm, length 1, factor
    on_corrupt      "fail", or "skip": leave the rows of damaged chunks out, the same ones on any number of ranks
    start           a cursor, or what state_dict() gave: go on there

    A `for` loop runs to the end of the epoch, the next one through the next epoch. A loop that was left goes on where it
    was left; seek(epoch) goes elsewhere. Every rank gets the same number of batches; in the short last step of an epoch
    one can have no row.

    Batches are views of the loader's memory. Of `depth` batches the caller may keep depth - 1 alive; further ones are
    copies, so that nothing fails and nothing changes under the caller's hands. The default loop copies nothing.
    """

    def __init__(self, data, batch=4096, *, lanes=24, seed=1, shuffle=True, rank=0, ranks=1, threads=2, memory="1GiB",
                 depth=4, block_rows=0, window_blocks=0, values="float", row_sum=0.0, log1p=False,
                 row_l2=False, scale=0.0, on_corrupt="fail", start=None, dataset=None):
        numpy()
        self._core = None
        self._lock = threading.RLock()
        batch, lanes, seed, rank, ranks, threads, depth, block_rows, window_blocks = (
            _whole(name, value, least, most) for name, value, least, most in (
                ("batch", batch, 1, 2**62), ("lanes", lanes, 1, 2**31 - 1), ("seed", seed, 0, 2**64 - 1),
                ("rank", rank, 0, 2**31 - 1), ("ranks", ranks, 1, 2**31 - 1), ("threads", threads, 1, 256),
                ("depth", depth, 3, 1024), ("block_rows", block_rows, 0, 2**62),
                ("window_blocks", window_blocks, 0, 2**31 - 1)))
        if rank >= ranks:
            raise InvalidError(f"rank {rank} is not one of {ranks} ranks, which are counted from 0")
        if ranks > lanes:
            raise InvalidError(f"{ranks} ranks cannot share {lanes} lanes: set lanes to a multiple of the ranks")
        if on_corrupt not in ("fail", "skip"):
            raise InvalidError(f'on_corrupt must be "fail" or "skip", not {on_corrupt!r}')
        if values not in ("float", "stored"):
            raise InvalidError(f'values must be "float" or "stored", not {values!r}')
        self.dataset = data if isinstance(data, Dataset) else Dataset(data, dataset)
        self.rank, self.ranks, self.depth = rank, ranks, depth
        self._handle = self.dataset.handle()
        self._order = Order(lanes=lanes, batch=batch, block_rows=block_rows, window_blocks=window_blocks, seed=seed,
                            shuffle=shuffle)
        self._options = Options(order=self._order, threads=threads, memory_bytes=_bytes(memory), depth=depth,
                                stored=values == "stored", skip_corrupt=on_corrupt == "skip")
        call("ebb_order_init", byref(self._order), self._handle.info)  # here for what follows; the loader fills its own
        self._lane_rows = [(lib.ebb_order_lane_share(byref(self._order), lane),
                            lib.ebb_order_lane_rows(byref(self._order), lane)) for lane in range(self._order.lanes)]
        self._full_steps = min(rows // share for share, rows in self._lane_rows)
        first, last = lanes * rank // ranks, lanes * (rank + 1) // ranks
        self._lanes = (ctypes.c_int32 * (last - first))(*range(first, last))
        self._options.lanes, self._options.n_lanes = self._lanes, last - first
        self._options.transform.row_sum, self._options.transform.log1p = row_sum, log1p
        self._options.transform.row_l2, self._options.transform.scale = row_l2, scale
        self.steps = lib.ebb_order_steps(byref(self._order))
        self._copies, self._at = 0, (0, 0)
        _loaders.add(self)
        self._core = Core(self._handle, self._options)
        if start is not None:
            self.load_state_dict(start if isinstance(start, dict) else {"cursor": start})

    # ---- batches ----

    def __len__(self):
        """Steps of an epoch."""
        return self.steps

    def __iter__(self):
        self._live()
        return _Epoch(self)

    def _next(self):
        """The next batch, None at the end of the epoch."""
        self._live()
        with self._lock:
            core = self._live()
            if core.position() != self._at:
                core = self._free()
                core.seek(*self._at)
            batch, lease = None, core.acquire()
            if lease:
                record, owner = lease
                batch = _batch.leased(record, self._handle.info.contents, owner, self.step_rows(record.step))
                if core.held() >= self.depth:
                    batch = batch.copy()
                    self._copies += 1
            self._at = core.position()
            return batch

    def step_rows(self, step):
        """Rows that all ranks together have in a step."""
        if step < self._full_steps:
            return self._order.batch
        return sum(max(0, min(share, rows - step * share)) for share, rows in self._lane_rows)

    # ---- place in the order ----

    @property
    def epoch(self):
        """Of the next batch."""
        return self._at[0]

    @property
    def step(self):
        """Of the next batch, within its epoch."""
        return self._at[1]

    def seek(self, epoch, step=0):
        """Go to a step, in constant time. Batches that are still held stay as they are."""
        self._live()
        with self._lock:
            core = self._free()
            core.seek(epoch, step)
            self._at = core.position()

    def set_epoch(self, epoch):
        """seek(epoch): the name that samplers of PyTorch have for it."""
        self.seek(epoch)

    @property
    def cursor(self):
        """Where the loader stands, the next batch's place: 40 bytes, the same for all ranks and any number of them."""
        self._live()
        with self._lock:
            cursor = self._live().cursor()
            cursor.epoch, cursor.step = self._at
            return bytes(cursor)

    def state_dict(self):
        """The cursor, and what the order depends on besides; of bytes, numbers and booleans."""
        order = {name: getattr(self._order, name) for name in ("batch", "lanes", "block_rows", "window_blocks", "shuffle")}
        return {"cursor": self.cursor, "order": order}

    def load_state_dict(self, state):
        """Go on where state_dict() was taken, with any number of ranks. ebb.DataError if it belongs to other data, and
        ebb.InvalidError if to another order."""
        self._live()
        raw = bytes(state["cursor"])
        if len(raw) != ctypes.sizeof(Cursor):
            raise InvalidError(f"a cursor has {ctypes.sizeof(Cursor)} bytes, not {len(raw)}")
        for name, value in state.get("order", {}).items():
            if getattr(self._order, name, value) != value:
                raise InvalidError(f"the state belongs to an order with {name} {value}, the loader has "
                                   f"{getattr(self._order, name)}: resume with the same {name}")
        with self._lock:
            core = self._free()
            core.restore(Cursor.from_buffer_copy(raw))
            self._at = core.position()

    def order_hash(self, epoch=None):
        """Hash over all rows of an epoch in their order before rows of unequal length are dealt to steps, equal for any number
        of ranks, and in C. Takes O(rows) time."""
        text = ctypes.create_string_buffer(33)
        lib.ebb_order_hash(byref(self._order), self.epoch if epoch is None else epoch, text)
        return text.value.decode()

    # ---- life ----

    def stats(self):
        """Counts since the loader, or its last move with batches held, began: rows, nnz, batches, bytes_read,
        bytes_decoded, rows_skipped (see on_corrupt), stall_seconds (waited for batches), memory_bytes, allocations after
        warm-up; held: batches in the caller's hands; copies: batches that had to be copied."""
        self._live()
        with self._lock:
            core = self._live()
            stats = core.stats()
            result = {name: getattr(stats, name) for name in ("rows", "nnz", "batches", "bytes_read", "bytes_decoded",
                                                              "rows_skipped")}
            return {**result, "stall_seconds": stats.stall_ns / 1e9, "memory_bytes": stats.memory_bytes,
                    "allocations": stats.allocations, "held": core.held(), "copies": self._copies}

    def close(self):
        """End the threads and free the memory, now if no batch is held, else with the last one."""
        with self._lock:
            self._core = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __repr__(self):
        state = "closed" if self._core is None else f"at epoch {self.epoch} step {self.step} of {self.steps}"
        return f"<ebb.Loader of {self.dataset.name}, batch {self._order.batch}, rank {self.rank} of {self.ranks}, {state}>"

    def __reduce__(self):
        raise TypeError("a loader has threads and cannot be sent to another process: make one there, and send "
                        "state_dict()")

    def _live(self):
        core = self._core
        if core is None:
            raise ValueError("the loader is closed")
        if core.process != os.getpid():
            raise RuntimeError("the loader's threads are of the process that made it, and this is a fork: make a loader "
                               "here. With PyTorch's DataLoader use num_workers=0, the loader reads ahead by itself")
        return core

    def _free(self):
        """A C loader without batches, so that it can be moved. If some are held, a new one: the old one stays theirs."""
        core = self._live()
        if core.held():
            core = self._core = Core(self._handle, self._options)
        return core


class _Epoch:
    """The iterator of one `for` loop."""

    def __init__(self, loader):
        self._loader = loader

    def __iter__(self):
        return self

    def __next__(self):
        batch = self._loader._next() if self._loader else None
        if batch is None:
            self._loader = None
            raise StopIteration
        return batch
