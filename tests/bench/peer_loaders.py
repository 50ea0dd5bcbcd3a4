"""One loader of bench_peers.py in a process of its own: peer_loaders.py JSON

JSON has "do" (a name of DO below) and what that needs; the last line printed is a JSON object. Loaders give batches of rows in a
shuffled order as (rows, values, columns) held by whatever they hand out: PyTorch tensors where PyTorch is here. "check": one epoch is
summed up. Otherwise an epoch is run uncounted, then epochs are timed for 1.5 s at least and "seconds" at most.
"""
import importlib
import json
import sys
import time
import warnings

import numpy as np

warnings.filterwarnings("ignore")
try:
    import torch
except ImportError:
    torch = None


# ---- rows out of HDF5 files, as h5py users read them ----

class H5Rows:
    """Rows of X (CSR group or 2-D dataset) of the files, opened in the process that reads."""

    def __init__(self, c):
        self.paths, self.key, self.x = c["files"], c.get("key", "X"), None

    def open(self):
        import h5py
        importlib.import_module("hdf5plugin")
        self.x = [h5py.File(p, "r")[self.key] for p in self.paths]
        self.sparse = isinstance(self.x[0], h5py.Group)
        self.indptr = [x["indptr"][:] for x in self.x] if self.sparse else None
        self.rows = [len(i) - 1 for i in self.indptr] if self.sparse else [x.shape[0] for x in self.x]
        self.cols = int(self.x[0].attrs["shape"][1]) if self.sparse else self.x[0].shape[1]
        return self

    def read(self, k, row0, row1):
        from scipy import sparse
        if not self.sparse:
            return self.x[k][row0:row1]
        p = self.indptr[k][row0:row1 + 1]
        return sparse.csr_matrix((self.x[k]["data"][p[0]:p[-1]], self.x[k]["indices"][p[0]:p[-1]], p - p[0]),
                                 shape=(row1 - row0, self.cols))


def h5_batches(c, part=0, parts=1, seed=0):
    """Blocks in shuffled order, rows shuffled within a window of blocks; every parts-th window."""
    from scipy import sparse
    rows = H5Rows(c).open()
    block, batch = c["block_rows"], c["batch"]
    blocks = [(k, r, min(r + block, n)) for k, n in enumerate(rows.rows) for r in range(0, n, block)]
    rng = np.random.default_rng(seed)
    rng.shuffle(blocks)
    window, rest = max(1, c["window_rows"] // block), None
    for w in range(part * window, len(blocks), parts * window):
        pieces = [rows.read(*b) for b in blocks[w:w + window]]
        if rest is not None:
            pieces.append(rest)
        x = sparse.vstack(pieces, format="csr") if rows.sparse else np.concatenate(pieces)
        x = x[rng.permutation(x.shape[0])]
        full = x.shape[0] // batch * batch
        for i in range(0, full, batch):
            yield x[i:i + batch]
        rest = x[full:] if full < x.shape[0] else None
    if rest is not None:
        yield rest


def tensors(x):
    """(crow, col, val) or (x,) as float32 tensors; without PyTorch the arrays."""
    parts = (x,) if isinstance(x, np.ndarray) else (x.indptr, x.indices, x.data)
    parts = parts[:-1] + (parts[-1].astype(np.float32, copy=False),)
    if len(parts) == 3:
        parts = (parts[0].astype(np.int32, copy=False), parts[1].astype(np.int32, copy=False), parts[2])
    return tuple(torch.from_numpy(p) for p in parts) if torch else parts


def parts_of(batch):
    """(rows, values, columns) of what a loader handed out."""
    if isinstance(batch, (tuple, list)):
        return (len(batch[0]) - 1, batch[2], batch[1]) if len(batch) == 3 else (len(batch[0]), batch[0], None)
    if hasattr(batch, "indptr"):
        return batch.shape[0], batch.data, batch.indices
    if torch and isinstance(batch, torch.Tensor) and batch.layout == torch.sparse_csr:
        return batch.shape[0], batch.values(), batch.col_indices()
    if torch and isinstance(batch, torch.Tensor) and batch.is_sparse:
        return batch.shape[0], batch._values(), batch._indices()[1]
    return batch.shape[0], batch, None


# ---- loaders: each gives a function that begins an epoch ----

def h5py_raw(c):
    return lambda epoch: h5_batches(c, seed=epoch)


def h5py_torch(c):
    return lambda epoch: map(tensors, h5_batches(c, seed=epoch))


def workers(c, data, **more):
    """A DataLoader whose workers live on between epochs."""
    more = {**more, "persistent_workers": True} if c["workers"] else {}
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=c["workers"], **more)
    return lambda epoch: iter(loader)


def dataloader(c):
    class Rows(torch.utils.data.IterableDataset):
        epoch = 0

        def __iter__(self):
            info = torch.utils.data.get_worker_info()
            self.epoch += 1
            return map(tensors, h5_batches(c, info.id if info else 0, info.num_workers if info else 1, self.epoch))

    return workers(c, Rows())


def scdataset(c):
    import anndata
    from scdataset import BlockShuffling, scDataset
    data = scDataset(anndata.read_h5ad(c["files"][0], backed="r"), BlockShuffling(block_size=c["block"]), batch_size=c["batch"],
                     fetch_factor=c["fetch"], fetch_transform=lambda a: a.to_memory().X, batch_transform=tensors, seed=1)
    return workers(c, data, prefetch_factor=c["fetch"] + 1)


def annbatch(c):
    import anndata
    import zarr
    from annbatch import DatasetCollection, Loader
    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})

    def begin(epoch):
        loader = Loader(batch_size=c["batch"], chunk_size=c["chunk"], preload_nchunks=c["preload"], shuffle=True, preload_to_gpu=False,
                        to="torch" if torch else None, rng=np.random.default_rng(epoch))
        loader = loader.use_collection(DatasetCollection(c["files"][0]),
                                       load_adata=lambda g: anndata.AnnData(X=anndata.io.sparse_dataset(g["X"])))
        return (b["X"] for b in loader)
    return begin


def ebb_python(c):
    sys.path.insert(0, c["module"])
    import ebb
    loader = ebb.Loader(c["files"][0], batch=c["batch"], threads=c["threads"], memory=c["memory"], depth=c["depth"])
    if not torch:
        return lambda epoch: ((b.indptr, b.indices, b.data) if b.sparse else b.x for b in loader)
    return lambda epoch: (b.torch().x for b in loader)


DO = {"h5py": h5py_raw, "h5py to PyTorch": h5py_torch, "DataLoader": dataloader, "scDataset": scdataset, "annbatch": annbatch,
      "ebb in Python": ebb_python}


# ---- measuring ----

def check(begin):
    rows, nnz, value_sum, column_sum = 0, 0, 0.0, 0
    for batch in begin(0):
        n, values, columns = parts_of(batch)
        values = np.asarray(values)
        rows, nnz, value_sum = rows + n, nnz + values.size, value_sum + float(values.sum(dtype=np.float64))
        column_sum += int(np.asarray(columns).sum(dtype=np.int64)) if columns is not None else 0
    return {"rows": rows, "nnz": nnz, "value_sum": value_sum, "column_sum": column_sum}


def some_epochs(begin, first, least, most):
    """Rows a second over whole epochs that take `least` seconds; ends early when `most` are over."""
    rows, epoch, began, spent = 0, first, time.perf_counter(), 0
    while spent < least:
        for batch in begin(epoch):
            rows += parts_of(batch)[0]
            if time.perf_counter() - began > most:
                break
        spent, epoch = time.perf_counter() - began, epoch + 1
    return rows / spent


def measure(c):
    begin = DO[c["do"]](c)
    if c.get("check"):
        return check(begin)
    some_epochs(begin, 1, 0.1, c["seconds"] / 4)
    return {"rows_per_s": some_epochs(begin, 2, 1.5, c["seconds"])}


# ---- data ----

def source_rows(path):
    """A real file's rows as CSR: dense X of h5py, raw/X of an AnnData file, or a 10x matrix."""
    import anndata
    import h5py
    from scipy import sparse
    with h5py.File(path, "r") as f:
        if "matrix" in f:
            g = f["matrix"]
            return sparse.csr_matrix((g["data"][:], g["indices"][:], g["indptr"][:]), shape=tuple(g["shape"][:][::-1]))
        if "raw" not in f:
            return sparse.csr_matrix(f["X"][:])
    return sparse.csr_matrix(anndata.read_h5ad(path).raw.X)


def make(c):
    """Repeat the rows of a real file until its non-zeros take `bytes` (8 each); write .h5ad files, one per compression."""
    import anndata
    import pandas
    from scipy import sparse
    x = source_rows(c["source"]).astype(np.float32)
    x.sort_indices()
    copies = max(1, round(c["bytes"] / 8 / x.nnz))
    x = sparse.vstack([x] * copies, format="csr")
    for path, compression in c["out"].items():
        obs = pandas.DataFrame(index=[f"c{i}" for i in range(x.shape[0])])
        var = pandas.DataFrame(index=[f"g{i}" for i in range(x.shape[1])])
        anndata.AnnData(X=x, obs=obs, var=var).write_h5ad(path, compression=compression)
    return {"rows": x.shape[0], "cols": x.shape[1], "nnz": x.nnz}


def convert(c):
    """annbatch's own collection of an .h5ad file, with its own defaults."""
    import zarr
    from annbatch import DatasetCollection
    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    DatasetCollection(c["out"]).add_adatas(c["files"], shuffle=True)
    return {}


def versions(c):
    from importlib.metadata import PackageNotFoundError, version
    found = {}
    for name in c["names"]:
        try:
            importlib.import_module(name)
            found[name] = version(name)
        except (ImportError, OSError, PackageNotFoundError) as e:
            found[name] = None
            found[name + " why"] = str(e).splitlines()[0][:200] if str(e) else type(e).__name__
    return {"python": ".".join(map(str, sys.version_info[:3])), **found}


if __name__ == "__main__":
    config = json.loads(sys.argv[1])
    print(json.dumps({"make": make, "convert": convert, "versions": versions}.get(config["do"], measure)(config)))
