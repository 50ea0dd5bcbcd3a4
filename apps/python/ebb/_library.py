"""libebb through ctypes: where it is, whether it fits this module, its structs, functions and errors.

The layout of every struct comes from the library itself (ebb_members), so that a library of another version is told
apart before any of its memory is touched.
"""
import ctypes
import os
from ctypes import POINTER, c_bool, c_char, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_uint8
from ctypes import c_uint64, c_void_p

VERSION = "0.1"  # major.minor of the headers that this module was written against
SONAME = "libebb.so.0"
END = 1
TARGETS = (None, "class", "real")  # ebb_target_kind_t


# ---- errors ----


class Error(Exception):
    """An error of libebb: its sentence, and `status`, the library's name for its kind."""

    status = "failed"


class InvalidError(Error, ValueError):
    """An argument is wrong."""


class DataError(Error, ValueError):
    """The data is malformed, or not the data that was expected."""


class CorruptError(DataError):
    """The data is damaged; the message names shard, dataset, chunk and row."""


class NotFoundError(Error, FileNotFoundError):
    """A file is not there."""


class StorageError(Error, OSError):
    """Reading failed."""


class OutOfMemoryError(Error, MemoryError):
    """Memory ran out."""


class UnavailableError(Error):
    """A service, device or library is not here."""


for _class in (Error, *Error.__subclasses__(), CorruptError):
    _class.__module__ = "ebb"
_ERRORS = {10: InvalidError, 11: InvalidError, 20: DataError, 21: CorruptError, 22: NotFoundError, 30: StorageError,
           31: StorageError, 32: OutOfMemoryError, 33: UnavailableError}


# ---- finding the library ----


def _places():
    """Paths to try, best first, and what each comes from."""
    chosen = os.environ.get("EBB_LIBRARY")
    if chosen:
        return [chosen]
    try:
        from ._place import LIBRARY  # written by CMake: the way from this folder to the library

        beside = [os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), LIBRARY))]
    except ImportError:
        beside = []
    return [path for path in beside if os.path.exists(path)] + [SONAME]


def _load():
    tried = []
    for path in _places():
        try:
            return path, ctypes.CDLL(path)
        except OSError as error:
            tried.append(f"{path} ({error})")
    raise ImportError("libebb was not found: install Ebb, or set EBB_LIBRARY to the path of libebb.so; tried "
                      + ", ".join(tried))


def _misfit(why):
    return ImportError(f"{path} does not fit this Python module: {why}; set EBB_LIBRARY to the library that was built "
                       "with the module, or install both again")


class _Member(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("offset", c_int64), ("size", c_int64)]


def _members():
    """(offset, size) by name, as the library has them."""
    try:
        function, version = lib.ebb_members, lib.ebb_version
    except AttributeError as missing:
        raise _misfit(f"it has no {str(missing).split()[-1]}") from None
    version.restype = c_char_p
    found = version().decode()
    if found.split(".")[:2] != VERSION.split("."):
        raise _misfit(f"it is version {found}, the module {VERSION}")
    function.restype = POINTER(_Member)
    table, members, i = function(), {}, 0
    while table[i].name:
        members[table[i].name.decode()] = (table[i].offset, table[i].size)
        i += 1
    return members


path, lib = _load()
_layout = _members()
version = lib.ebb_version().decode()


# ---- structs ----


def _struct(name, /, **types):
    """A ctypes structure with the named members where the library has them, the rest left out."""
    fields, end = [], 0
    try:
        places = sorted((_layout[f"{name}.{member}"] + (member, ctype)) for member, ctype in types.items())
    except KeyError as missing:
        raise _misfit(f"it has no {missing.args[0]}") from None
    for offset, size, member, ctype in places:
        if ctypes.sizeof(ctype) != size or offset < end:
            raise _misfit(f"{name}.{member} takes {size} bytes at {offset}, not {ctypes.sizeof(ctype)} after {end}")
        if offset > end:
            fields.append((f"gap{end}", c_char * (offset - end)))
        fields.append((member, ctype))
        end = offset + size
    whole = _layout[name][1]
    if whole > end:
        fields.append((f"gap{end}", c_char * (whole - end)))
    struct = type(name, (ctypes.Structure,), {"_fields_": fields})
    if ctypes.sizeof(struct) != whole or any(getattr(struct, m).offset != o for o, _, m, _ in places):
        raise _misfit(f"{name} takes {whole} bytes, not {ctypes.sizeof(struct)}")
    return struct


ErrorRecord = _struct("ebb_error_t", status=c_int, message=c_char * 512)
Field = _struct("ebb_field_t", name=c_char * 64, begin=c_int32, end=c_int32, categorical=c_bool)
Info = _struct("ebb_dataset_info_t", name=c_char_p, rows=c_int64, cols=c_int64, nnz=c_int64, sparse=c_bool,
               value_type=c_int, target=c_int, target_cols=c_int64, classes=c_int64, class_names=POINTER(c_char_p),
               class_rows=POINTER(c_int64), weighted=c_bool, n_fields=c_int, fields=POINTER(Field), bytes=c_int64,
               n_shards=c_int, hash=c_char_p)
Order = _struct("ebb_order_t", rows=c_int64, lanes=c_int32, batch=c_int64, block_rows=c_int64, window_blocks=c_int32,
                seed=c_uint64, shuffle=c_bool)
Cursor = _struct("ebb_cursor_t", seed=c_uint64, epoch=c_int64, step=c_int64, data_hash=c_uint8 * 16)
Transform = _struct("ebb_transform_t", row_sum=c_float, log1p=c_bool, row_l2=c_bool, scale=c_float)
Options = _struct("ebb_loader_options_t", order=Order, transform=Transform, lanes=POINTER(c_int32), n_lanes=c_int32,
                  threads=c_int, memory_bytes=c_int64, depth=c_int, stored=c_bool, skip_corrupt=c_bool)
LaneRows = _struct("ebb_lane_rows_t", lane=c_int32, first=c_int64, n=c_int64)
BatchRecord = _struct("ebb_batch_t", epoch=c_int64, step=c_int64, rows=c_int64, nnz=c_int64, n_lanes=c_int32,
                      lanes=c_void_p, rowptr=c_void_p, column_type=c_int, value_type=c_int, columns=c_void_p,
                      values=c_void_p, label=c_void_p, y=c_void_p, weight=c_void_p, row=c_void_p)
Stats = _struct("ebb_loader_stats_t", rows=c_int64, nnz=c_int64, batches=c_int64, bytes_read=c_int64,
                bytes_decoded=c_int64, stall_ns=c_int64, memory_bytes=c_int64, allocations=c_int64, rows_skipped=c_int64)


# ---- functions ----


def _function(name, result, *arguments):
    try:
        function = getattr(lib, name)
    except AttributeError:
        raise _misfit(f"it has no {name}") from None
    function.restype, function.argtypes = result, arguments


_function("ebb_status_name", c_char_p, c_int)
_function("ebb_error", POINTER(ErrorRecord))
_function("ebb_error_clear", None)
_function("ebb_value_type_name", c_char_p, c_int)
_function("ebb_shared_dataset_open", c_int, c_char_p, c_char_p, POINTER(c_void_p))
_function("ebb_shared_dataset_get", c_void_p, c_void_p)
_function("ebb_shared_dataset_drop", None, c_void_p)
_function("ebb_dataset_info", POINTER(Info), c_void_p)
_function("ebb_reader_create", c_int, c_void_p, c_size_t, POINTER(c_void_p))
_function("ebb_reader_destroy", None, c_void_p)
_function("ebb_reader_rowptr", c_int, c_void_p, c_int64, c_int64, c_int64, c_void_p)
_function("ebb_reader_csr", c_int, c_void_p, c_int64, c_int64, c_void_p, c_void_p)
_function("ebb_reader_dense", c_int, c_void_p, c_int64, c_int64, c_void_p)
_function("ebb_reader_targets", c_int, c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_void_p)
_function("ebb_order_init", c_int, POINTER(Order), POINTER(Info))
_function("ebb_order_row", c_int64, POINTER(Order), c_int64, c_int32, c_int64)
_function("ebb_order_lane_rows", c_int64, POINTER(Order), c_int32)
_function("ebb_order_lane_share", c_int64, POINTER(Order), c_int32)
_function("ebb_order_steps", c_int64, POINTER(Order))
_function("ebb_order_hash", None, POINTER(Order), c_int64, c_char_p)
_function("ebb_lease_create_loader", c_int, c_void_p, c_void_p, POINTER(Options), POINTER(c_void_p))
_function("ebb_shared_loader_get", c_void_p, c_void_p)
_function("ebb_shared_loader_held", c_int, c_void_p)
_function("ebb_shared_loader_seek", c_int, c_void_p, c_int64, c_int64)
_function("ebb_shared_loader_restore", c_int, c_void_p, POINTER(Cursor))
_function("ebb_lease_create", c_int, POINTER(c_void_p))
_function("ebb_lease_acquire", c_int, c_void_p, c_void_p)
_function("ebb_lease_batch", POINTER(BatchRecord), c_void_p)
_function("ebb_lease_dlpack", c_void_p, c_void_p)
_function("ebb_loader_cursor", None, c_void_p, POINTER(Cursor))
_function("ebb_loader_stats", None, c_void_p, POINTER(Stats))


def call(name, *arguments):
    """Call a function that returns a status; failures become exceptions. Returns the status, 0 or END."""
    lib.ebb_error_clear()
    status = getattr(lib, name)(*arguments)
    if status in (0, END):
        return status
    message = lib.ebb_error().contents.message.decode("utf-8", "replace")
    lib.ebb_error_clear()
    error = _ERRORS.get(status, Error)(message or f"{name} failed")
    error.status = lib.ebb_status_name(status).decode()
    raise error


def numpy():
    try:
        import numpy as module
    except ImportError:
        raise ImportError("ebb hands out NumPy arrays, and NumPy is not here: apt install python3-numpy, "
                          "or pip install numpy") from None
    return module
