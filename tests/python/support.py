"""What the tests of the Python module share: data sets of every kind, made by the real command, and how skips are shown."""
import os
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbtest as t  # noqa: E402

import numpy as np  # noqa: E402

import ebb  # noqa: E402

WORK = tempfile.TemporaryDirectory(prefix="ebb-test-")
DUMP = os.environ.get("DUMP_BATCHES", "dump_batches")
ROWS = 1000


def _pack(name, *arguments):
    folder = os.path.join(WORK.name, name)
    if not os.path.exists(folder):
        t.run(["pack", *arguments, folder])
    return folder


def sparse(rows=ROWS):
    """Classes, rows of 0 to many non-zeros."""
    text = os.path.join(WORK.name, f"sparse{rows}.svm")
    if not os.path.exists(text):
        t.sparse_data(text, rows, 300, 12, 3, seed=5)
    return _pack(f"sparse{rows}", text)


def dense():
    """Classes."""
    if not os.path.exists(f"{WORK.name}/x.npy"):
        t.dense_data(WORK.name, ROWS, 17, 4, seed=6)
    return _pack("dense", f"{WORK.name}/x.npy", "--target", f"{WORK.name}/y.npy")


def regression():
    """One real target and a weight per row."""
    rng = np.random.default_rng(7)
    path = f"{WORK.name}/regression.csv"
    with open(path, "w") as f:
        f.write("a,b,y,w\n")
        for a, b, y, w in rng.normal(size=(ROWS, 4)):
            f.write(f"{a:.4f},{b:.4f},{y:.4f},{abs(w) + 0.1:.4f}\n")
    return _pack("regression", path, "--columns", "a:numeric,b:numeric,y:target,w:weight", "--task", "real", "--dense")


def several_targets():
    """Several real targets per row: also how multi-label data is kept."""
    rng = np.random.default_rng(8)
    np.save(f"{WORK.name}/x2.npy", rng.normal(size=(ROWS, 5)).astype(np.float32))
    np.save(f"{WORK.name}/y2.npy", rng.integers(0, 2, size=(ROWS, 3)).astype(np.float32))
    return _pack("several", f"{WORK.name}/x2.npy", "--target", f"{WORK.name}/y2.npy")


def long():
    """Enough rows for many blocks and windows."""
    np.save(f"{WORK.name}/x4.npy", np.arange(900000, dtype=np.float32).reshape(-1, 3))
    return _pack("long", f"{WORK.name}/x4.npy")


def whole_numbers(sparse):
    """Values of a byte, as pixels and counts are."""
    rng = np.random.default_rng(9)
    x = rng.integers(0, 256, size=(ROWS, 40)) * (rng.random((ROWS, 40)) < (0.3 if sparse else 1))
    np.save(f"{WORK.name}/x5.npy", x.astype(np.uint8))
    np.save(f"{WORK.name}/y5.npy", rng.integers(0, 3, size=ROWS))
    return _pack(f"whole{int(sparse)}", f"{WORK.name}/x5.npy", "--target", f"{WORK.name}/y5.npy",
                 *(["--sparse"] if sparse else []))


def without_targets():
    np.save(f"{WORK.name}/x3.npy", np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3))
    return _pack("bare", f"{WORK.name}/x3.npy")


def from_c(path, batch, lanes, seed, rank, ranks, epochs, cursor=b""):
    """Batches as the C program has them: lists of ten arrays' bytes, None for NULL."""
    arguments = [*map(str, (batch, lanes, seed, rank, ranks, epochs)), *([cursor.hex()] if cursor else [])]
    out = subprocess.run([DUMP, path, *arguments], check=True, stdout=subprocess.PIPE).stdout
    arrays, at = [], 0
    while at < len(out):
        size = int(np.frombuffer(out, np.int64, 1, at)[0])
        at += 8
        arrays.append(None if size < 0 else out[at:at + size])
        at += max(0, size)
    return [arrays[i:i + 10] for i in range(0, len(arrays), 10)]


def main():
    """Run the tests of the program; exit 77 if none of them could run."""
    program = unittest.main(exit=False, verbosity=2)
    result = program.result
    WORK.cleanup()
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(t.SKIP if result.testsRun == len(result.skipped) else 0)
