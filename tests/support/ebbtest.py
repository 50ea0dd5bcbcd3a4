"""What the tests that run the real command share: making data, running ebb alone or under mpirun, reading run records."""
import ctypes
import json
import os
import random
import signal
import struct
import subprocess
import sys

EBB = os.environ.get("EBB", "ebb")
MPIRUN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "mpirun")
SKIP = 77


def shared(name):
    """Path of a real data file, or None where it is absent."""
    base = os.environ.get("EBB_SHARED") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../shared/data")
    path = os.path.join(base, name)
    return path if os.path.exists(path) else None


def command(args, ranks=0):
    return ([MPIRUN, str(ranks)] if ranks else []) + [EBB] + [str(a) for a in args]


def run(args, ranks=0, ok=True, env=None, timeout=300, cwd=None):
    """Run ebb; the result has returncode, stdout and stderr. ok: fail unless it exits 0."""
    done = subprocess.run(command(args, ranks), capture_output=True, text=True, timeout=timeout, cwd=cwd,
                          stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})
    if ok and done.returncode != 0:
        fail(f"{' '.join(command(args, ranks))}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def last_step(run_dir):
    """The newest step in metrics.jsonl, which is cut back where a run goes on; 0: none."""
    try:
        with open(f"{run_dir}/metrics.jsonl", "rb") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - 4096))
            lines = f.read().split(b'"kind":"step"')
        return int(lines[-1].split(b'"step":')[1].split(b",")[0].split(b"}")[0]) if len(lines) > 1 else 0
    except (OSError, ValueError, IndexError):
        return 0


def an_end(run_dir):
    """A number of steps that lies before a run that was stopped; runs of about equal length share it, and what they are compared with."""
    return (max(0, newest_step(run_dir)) // 100 + 1) * 100


def rank_pid(launcher, rank):
    """Process id of a rank of the job that the process of mpirun has started on this machine; None if there is none."""
    try:
        with open(f"/proc/{launcher}/task/{launcher}/children") as f:
            children = f.read().split()
    except OSError:
        return None
    for child in children:
        try:
            with open(f"/proc/{child}/environ") as env:
                if f"OMPI_COMM_WORLD_RANK={rank}\0" in env.read():
                    return int(child)
        except OSError:
            pass
    return None


def with_us(number=signal.SIGTERM):
    """For preexec_fn: the process gets the signal when this one ends, however it ends, so that none without an end of its own is left."""
    libc, pr_set_pdeathsig = ctypes.CDLL(None), 1
    return lambda: libc.prctl(pr_set_pdeathsig, int(number))


def fail(message):
    print("FAILED:", message)
    sys.exit(1)


def record(run_dir):
    with open(os.path.join(run_dir, "run.json")) as f:
        return json.load(f)


def hashes(run_dir):
    """Final SHA-256 of weights and of optimiser state."""
    r = record(run_dir)
    return r.get("weights_sha256"), r.get("optimizer_sha256")


def metrics(run_dir):
    with open(os.path.join(run_dir, "metrics.jsonl")) as f:
        return [json.loads(line) for line in f]


def newest_step(run_dir):
    """Step of the newest checkpoint; -1 if there is none."""
    try:
        return max((int(n[5:-3]) for n in os.listdir(f"{run_dir}/checkpoints") if n.startswith("step-") and n.endswith(".h5")), default=-1)
    except FileNotFoundError:
        return -1


def write_npy(path, dtype, shape, values):
    """A .npy file of version 1.0 from a flat sequence; dtype '<f4', '<i4' or '|u1'."""
    header = "{'descr': '%s', 'fortran_order': False, 'shape': (%s,), }" % (dtype, ", ".join(map(str, shape)))
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    code = {"<f4": "f", "<i4": "i", "|u1": "B"}[dtype]
    with open(path, "wb") as f:
        f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        f.write(struct.pack("<%d%s" % (len(values), code), *values))


def sparse_data(path, rows, cols, mean_nnz, classes, seed):
    """svmlight text whose label depends on a few columns, with row lengths from 0 to many."""
    rng = random.Random(seed)
    weight = [[rng.gauss(0, 1) for _ in range(classes)] for _ in range(997)]
    with open(path, "w") as f:
        for _ in range(rows):
            n = min(cols, int(rng.expovariate(1.0 / mean_nnz)))
            columns = sorted({1 + int(cols * rng.random() ** 3) for _ in range(n)})
            values = [round(rng.gauss(0, 1), 3) for _ in columns]
            score = [sum(v * weight[c % 997][k] for c, v in zip(columns, values)) for k in range(classes)]
            label = score.index(max(score))
            f.write(str(label) + "".join(f" {c}:{v}" for c, v in zip(columns, values)) + "\n")


def dense_data(folder, rows, cols, classes, seed):
    """x.npy and y.npy; rows are noisy copies of one pattern per class."""
    rng = random.Random(seed)
    pattern = [[rng.gauss(0, 1) for _ in range(cols)] for _ in range(classes)]
    labels = [rng.randrange(classes) for _ in range(rows)]
    write_npy(f"{folder}/x.npy", "<f4", (rows, cols), [p + rng.gauss(0, 1) for k in labels for p in pattern[k]])
    write_npy(f"{folder}/y.npy", "<i4", (rows,), labels)
