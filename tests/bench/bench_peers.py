#!/usr/bin/env python3
"""The loader beside others on the same rows: shuffled batches of the same size, as many threads or workers as cores, in one run.

  bench_peers.py [--build build/release] [--only cells|dense|foreign] [--peers REGEX] [--megabytes 800] [--repeats 3]
                 [--venv build/bench-venv] [--work FOLDER]

Others: H5Dread in C at its best chunk cache; h5py + hdf5plugin, and PyTorch's DataLoader over it, on Ebb's own shards; scDataset on the
same cells as .h5ad; annbatch on its own conversion of them; h5py on .h5ad files with gzip and lzf that Ebb opens as they are. They are
installed by pip into a virtual environment of this script's own, made by the newest Python here, or found in those of EBB_BENCH_PYTHON
(interpreters, separated by colons: each peer runs in the first that has what it needs). What cannot be installed is skipped, with pip's
reason. Each has a few settings around those its documentation names; one pass each chooses the best. Repeats take turns.

Cells: the rows of a real file of counts (EBB_SHARED or ../shared/data), repeated until their non-zeros take MEGABYTES at 8 bytes each;
made up where it is absent. Before anything is timed, one epoch of each must give the same rows, non-zeros and sums of values and columns.
Ebb's memory is kept so small that an epoch decodes everything again, as far as its windows do not hold most of the data (the table tells,
and gives no verdict then).
The kernel's page cache is warm for all. Ratios are of medians; "met" refers to the targets that Ebb has set itself.
"""
import argparse
import glob
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../support"))
import ebbtest as t

WORKER = os.path.join(HERE, "peer_loaders.py")
PACKAGES = ["numpy", "scipy", "h5py", "hdf5plugin", "anndata", "torch", "scdataset", "annbatch", "zarrs"]
CORES = len(os.sched_getaffinity(0))


# ---- interpreters ----

def pip(python, *args):
    """None, or why pip could not."""
    done = subprocess.run([python, "-m", "pip", "install", "-q", *args], capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    if errors and "require a different python version" in errors[0]:
        errors.append(f"there is none for this Python: Requires-Python {errors[0].split('Requires-Python')[-1].strip()}")
    return None if done.returncode == 0 else (errors or done.stderr.splitlines() or ["pip failed"])[-1]


def own_environment(folder, best):
    """A virtual environment with all that installs; reasons for the rest."""
    python, why = f"{folder}/bin/python", {}
    if not os.path.exists(python):
        best = best or next((p for p in ("python3.14", "python3.13", "python3.12") if shutil.which(p)
                             and subprocess.run([p, "-m", "venv", "--help"], capture_output=True).returncode == 0), sys.executable)
        print(f"making {folder} with {best} and installing the peers; this takes minutes")
        subprocess.run([best, "-m", "venv", folder], check=True)
    have = ask(python, {"do": "versions", "names": PACKAGES}) if pip(python, "numpy") is None else {}
    for name, wanted in (("h5py", ["h5py", "hdf5plugin", "scipy"]), ("anndata", ["anndata"]), ("torch", ["torch"]),
                         ("scdataset", ["scdataset"]), ("annbatch", ["annbatch[zarrs]"])):
        if have.get(name):
            continue
        if name == "torch" and pip(python, "--index-url", "https://download.pytorch.org/whl/cpu", "torch") is None:
            continue # the small one, for processors alone
        if name == "scdataset" and why.get("torch"):
            why[name] = "needs torch"
            continue
        why[name] = pip(python, *wanted)
    return [python], {k: v for k, v in why.items() if v}


def ask(python, config, timeout=600):
    """What peer_loaders.py answers, or {"failed": why}."""
    try:
        done = subprocess.run([python, WORKER, json.dumps(config)], capture_output=True, text=True, timeout=timeout,
                              env={**os.environ, "PYTHONWARNINGS": "ignore"})
    except (OSError, subprocess.TimeoutExpired) as e:
        return {"failed": str(e).splitlines()[0][:160]}
    if done.returncode != 0:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:160]}
    return json.loads(done.stdout.splitlines()[-1])


class Pythons:
    def __init__(self, o):
        given = os.environ.get("EBB_BENCH_PYTHON")
        paths, self.why = (given.split(":"), {}) if given else own_environment(os.path.abspath(o.venv), o.python)
        self.found = [(p, ask(p, {"do": "versions", "names": PACKAGES})) for p in paths]
        for p, v in self.found:
            print(f"{p}: " + (v.get("failed") or ", ".join(f"{n} {v[n]}" for n in ["python"] + PACKAGES if v.get(n))))

    def having(self, *names):
        return next((p for p, v in self.found if all(v.get(n) for n in names)), None)

    def reason(self, names):
        for n in names:
            if not any(v.get(n) for _, v in self.found):
                return f"{n}: " + (self.why.get(n) or next((v[n + " why"] for _, v in self.found if n + " why" in v), "not installed"))
        return "no one interpreter has " + ", ".join(names)


# ---- contenders: what runs one timed pass and gives rows a second ----

class Peer:
    """A loader of peer_loaders.py; the best of some settings."""

    def __init__(self, pythons, name, do, needs, config, settings, target=None):
        self.name, self.target, self.rates, self.note = name, target, [], ""
        self.config, self.settings = {"do": do, **config}, settings
        self.python = pythons.having("numpy", *needs)
        self.failed = None if self.python else pythons.reason(needs)

    def ask(self, **more):
        answer = ask(self.python, {**self.config, **more})
        self.failed = answer.get("failed")
        return answer

    def check(self):
        return self.ask(**self.settings[0], check=True)

    def choose(self):
        rates = [(self.ask(**s, seconds=8).get("rows_per_s", 0), i) for i, s in enumerate(self.settings)] if len(self.settings) > 1 else [(1, 0)]
        self.failed = None if max(rates)[0] > 0 else self.failed
        best = self.settings[max(rates)[1]]
        self.config.update(best)
        self.note = " ".join(f"{k}={v}" for k, v in best.items())
        if len(rates) > 1:
            self.note += f" (of {len(rates)}: " + ", ".join(f"{rate:.0f}" for rate, _ in rates) + ")"

    def run(self):
        answer = self.ask(seconds=30)
        if not self.failed:
            self.rates.append(answer["rows_per_s"])


class H5Dread:
    """bench_h5dread; caches of each dataset are tried that hold a small part of the data only."""

    def __init__(self, o, name, files, block_rows, processes, most_mib, target):
        self.name, self.target, self.rates, self.failed, self.note = name, target, [], None, ""
        self.program, self.files, self.processes = f"{o.build}/tests/bench_h5dread", files, processes
        self.caches = [c for c in (1, 4, 16, 64, 256) if c <= max(1, most_mib)]
        self.blocks, self.best = [block_rows, 8 * block_rows], (block_rows, 1)

    def ask(self, block, cache, passes):
        done = subprocess.run([self.program, str(block), str(cache), str(self.processes), str(passes), *self.files], capture_output=True,
                              text=True)
        if done.returncode != 0:
            self.failed = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return {"seconds": [float("inf")], "rows": 0}
        return json.loads(done.stdout)

    def check(self):
        return self.ask(*self.best, 1)

    def choose(self):
        tried = [(min(self.ask(b, c, 2)["seconds"]), (b, c)) for b in self.blocks for c in self.caches]
        self.best = min(tried)[1]
        self.note = f"block={self.best[0]} cache={self.best[1]}MiB (of {len(tried)})"

    def run(self):
        answer = self.ask(*self.best, 2)
        self.rates.append(answer["rows"] / statistics.median(answer["seconds"]))


class Ebb:
    """ebb bench loader; also keeps what it says of the limit."""

    def __init__(self, name, data, batch, dataset=None):
        self.name, self.target, self.rates, self.failed, self.note = name, None, [], None, ""
        self.args = ["bench", "loader", data, "--json", "-b", batch, "-t", CORES, "--order", "shuffled", "--cache", "warm"]
        self.args += ["--dataset", dataset] if dataset else []
        self.shares, self.decoded, self.kept, self.decode = [], [], [], []

    def ask(self, repeats):
        return json.loads(t.run(self.args + ["-n", repeats], timeout=3600).stdout)

    def check(self):
        self.report = self.ask(1)
        return {k: self.report["data"][k] for k in ("rows", "nnz", "value_sum", "column_sum")}

    def choose(self):
        pass

    def run(self):
        report = self.ask(3)
        plain = [f for f in report["loader"] if not f["paced"]]
        first = plain[0]
        self.rates.append(first["rows_per_s"])
        self.decoded.append(first["decoded_per_row"])
        self.note = f"memory={first['memory_bytes'] / 1e6:.0f}MB, decodes {statistics.median(self.decoded):.2f} of each epoch"
        self.shares.append(first["share"])
        self.kept += [f["rows_per_s"] for f in plain[1:] if f["kept"]]
        self.decode += [f["rows_per_s"] for f in report["limits"] if f["what"] == "decode"]


# ---- a table ----

def agree(first, other):
    return all(abs(first[k] - other[k]) <= 1e-6 * abs(first[k]) for k in ("rows", "nnz", "value_sum", "column_sum") if k in other)


def verdict(ratio, target):
    return f"{ratio:.2f} {'met' if ratio >= target else 'missed'}" if target else f"{ratio:.2f}"


def spread(rates):
    return f"{statistics.median(rates):11.0f} ({min(rates):.0f} .. {max(rates):.0f})"


def say(text):
    """What is under way, for people who wait."""
    if sys.stderr.isatty():
        print(f"\r  {text}\033[K", end="", file=sys.stderr, flush=True)


def contest(title, o, ebb, python, peers):
    """Check all, choose settings, take turns, print. ebb: in C; python: Ebb in Python or None."""
    peers = [p for p in peers if re.search(o.peers, p.name)]
    print(f"\n{title}", flush=True)
    wanted = ebb.check()
    everyone = [ebb] + ([python] if python else []) + peers
    for p in everyone[1:]:
        if p.failed:
            continue
        say(f"checking {p.name}")
        found = p.check()
        if not p.failed and not agree(wanted, found):
            t.fail(f"{p.name} gives other rows: {found}, not {wanted}")
    for stage in ["choose"] + ["run"] * o.repeats:
        for p in everyone:
            if not p.failed:
                say(f"{'choosing settings' if stage == 'choose' else 'timing'}: {p.name}")
                getattr(p, stage)()
    say("")
    share = statistics.median(ebb.shares)
    print(f"  {'':30} {'rows/s, median (all)':36} {'Ebb in C':>12} {'Python':>12} target  setting")
    whole = statistics.median(ebb.decoded) > 0.8 # else a ratio says more of memory than of the loader: no verdict
    raw = f"raw {ebb.report['data']['codec']} decode, in memory"
    print(f"  {raw:30} {spread(ebb.decode):36} {verdict(share, 0.9 if whole else None):>12} {'':12} >= 0.90"
          + ("" if whole else " if all were decoded"))
    base = {p: statistics.median(p.rates) for p in (ebb, python) if p and p.rates}
    rows = []
    for p in everyone:
        if not p.rates:
            print(f"  {p.name:30} SKIPPED: {p.failed}")
            continue
        rate = statistics.median(p.rates)
        ratios = ["" if p in (ebb, python) or q not in base else verdict(base[q] / rate, p.target if whole else None) for q in (ebb, python)]
        print(f"  {p.name:30} {spread(p.rates):36} {ratios[0]:>12} {ratios[1]:>12} {f'>= {p.target}' if p.target else '':7} {p.note}")
        rows.append({"name": p.name, "rows_per_s": p.rates, "setting": p.note, "ratios": ratios})
    if ebb.kept:
        print(f"  {'Ebb in C, data kept decoded':30} {spread(ebb.kept)}")
    return {"title": title, "data": ebb.report["data"], "share": ebb.shares, "rows": rows}


# ---- the contests ----

def missing(*paths):
    """Those that an earlier run with the same --work did not leave."""
    return [p for p in paths if not os.path.exists(p)]


def h5_settings(block):
    return [{"block_rows": block}, {"block_rows": 8 * block}]


def ebb_in_python(o, pythons, data, ebb_report):
    config = {"files": [data], "batch": o.batch, "threads": CORES, "memory": ebb_report["setting"]["memory_bytes"], "depth": 3,
              "module": os.path.join(HERE, "../../apps/python")}
    os.environ["EBB_LIBRARY"] = os.path.abspath(f"{o.build}/src/libebb.so")
    return Peer(pythons, "Ebb in Python" + (", PyTorch" if pythons.having("torch", "scipy") else ""), "ebb in Python",
                ["scipy"] + (["torch"] if pythons.having("torch", "scipy") else []), config, [{}])


def on_shards(o, pythons, data, block, decoded, dense):
    """H5Dread and h5py on Ebb's own shards."""
    files = sorted(glob.glob(f"{data}/shard-*.h5"))
    config = {"files": files, "batch": o.batch, "window_rows": 8 * o.batch}
    mib = decoded / 8 / 2**20 / (1 if dense else 2)
    return [H5Dread(o, f"H5Dread, {n} process{'es' if n > 1 else ''}", files, block, n, mib, 3) for n in sorted({1, CORES})] + [
        Peer(pythons, "h5py + hdf5plugin, PyTorch", "h5py to PyTorch", ["h5py", "hdf5plugin", "scipy", "torch"], config, h5_settings(block), 10)] + [
        Peer(pythons, f"DataLoader, {n} workers", "DataLoader", ["h5py", "hdf5plugin", "scipy", "torch"], {**config, "workers": n},
             h5_settings(block), 10) for n in sorted({0, CORES})]


def cells(o, pythons, work):
    data, h5ad, source = f"{work}/cells", f"{work}/cells.h5ad", t.shared("mouse-bladder-h5/mouse_bladder_cell_select_2100.h5")
    writer = pythons.having("anndata", "h5py", "scipy")
    if source and writer and missing(data):
        made = ask(writer, {"do": "make", "source": source, "bytes": o.megabytes * 1e6, "out": {h5ad: None, f"{work}/gzip.h5ad": "gzip"}}, 3600)
        if "failed" in made:
            t.fail(made["failed"])
        t.run(["pack", h5ad, data], timeout=3600)
    elif missing(data):
        subprocess.run([f"{o.build}/tests/make_data", "counts", str(int(o.megabytes * 1e6 / 8 / 370)), data], check=True)
    ebb = Ebb("Ebb in C", data, o.batch)
    ebb.check()
    block, decoded = ebb.report["setting"]["block_rows"], ebb.report["data"]["decoded_bytes"]
    peers = on_shards(o, pythons, data, block, decoded, False)
    config = {"files": [h5ad], "batch": o.batch}
    settings = [{"block": b, "fetch": f, "workers": w} for b, f in ((16, 16), (64, 16), (256, 4)) for w in sorted({0, CORES})]
    more = [Peer(pythons, "scDataset", "scDataset", ["scdataset", "anndata", "torch"], config, settings, 3),
            Peer(pythons, "scDataset, gzip", "scDataset", ["scdataset", "anndata", "torch"], {**config, "files": [f"{work}/gzip.h5ad"]}, settings[:2], 3),
            Peer(pythons, "annbatch, " + ("PyTorch" if pythons.having("annbatch", "torch") else "SciPy"), "annbatch",
                 ["annbatch", "zarrs", "anndata"] + (["torch"] if pythons.having("annbatch", "torch") else []),
                 {"files": [f"{work}/annbatch"], "batch": o.batch},
                 [{"chunk": c, "preload": p} for c, p in ((512, 32), (64, 256), (32, 256), (256, 16))], 3)]
    for p in more:
        if not os.path.exists(h5ad):
            p.failed = "there is no .h5ad: neither real cells nor anndata are here"
    if not more[-1].failed and missing(f"{work}/annbatch"):
        more[-1].failed = ask(more[-1].python, {"do": "convert", "files": [h5ad], "out": f"{work}/annbatch"}, 3600).get("failed")
    d = ebb.report["data"]
    return contest(f"cells: {d['rows']} x {d['cols']}, {d['nnz'] / 1e6:.1f} M non-zeros, batch {o.batch}, {CORES} threads", o, ebb,
                   ebb_in_python(o, pythons, data, ebb.report), peers + more)


def dense(o, pythons, work):
    data = f"{work}/dense"
    if missing(data):
        subprocess.run([f"{o.build}/tests/make_data", "dense", str(int(o.megabytes * 1e6 / 4 / 784)), data], check=True)
    ebb = Ebb("Ebb in C", data, o.batch)
    ebb.check()
    block, d = ebb.report["setting"]["block_rows"], ebb.report["data"]
    return contest(f"dense: {d['rows']} x {d['cols']} bytes, batch {o.batch}, {CORES} threads", o, ebb,
                   ebb_in_python(o, pythons, data, ebb.report), on_shards(o, pythons, data, block, d["decoded_bytes"], True))


def foreign(o, pythons, work):
    """Real files as anndata writes them, opened as they are."""
    results, writer = [], pythons.having("anndata", "h5py", "scipy")
    for name, path in (("mouse bladder", "mouse-bladder-h5/mouse_bladder_cell_select_2100.h5"),
                       ("pbmc68k", "pbmc68k-h5ad/10x_pbmc68k_reduced.h5ad"), ("10x", "tenx-h5/filtered_feature_bc_matrix.h5")):
        source = t.shared(path)
        if not re.search(o.files, name):
            continue
        if not source or not writer:
            print(f"\n{name} as it is: SKIPPED: " + (f"no real data {path} here" if not source else pythons.reason(["anndata", "h5py", "scipy"])))
            continue
        out = {f"{work}/{name.replace(' ', '-')}-{c}.h5ad": c for c in ("gzip", "lzf")}
        made = {}
        if missing(*out):
            made = ask(writer, {"do": "make", "source": source, "bytes": o.megabytes * 1e6, "out": out}, 3600)
        if "failed" in made:
            t.fail(made["failed"])
        for file, codec in out.items():
            ebb = Ebb("Ebb in C", file, o.batch)
            ebb.check()
            d = ebb.report["data"]
            peer = Peer(pythons, "h5py", "h5py", ["h5py", "hdf5plugin", "scipy"],
                        {"files": [file], "batch": o.batch, "window_rows": 8 * o.batch}, h5_settings(ebb.report["setting"]["block_rows"]), 2)
            results.append(contest(f"{name}, {codec} .h5ad as it is: {d['rows']} x {d['cols']}, {d['nnz'] / 1e6:.1f} M non-zeros", o, ebb, None, [peer]))
    return results


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build/release", help="where ebb and the benchmarks were built")
    p.add_argument("--venv", default="build/bench-venv")
    p.add_argument("--python", help="interpreter to make it with; annbatch needs 3.12")
    p.add_argument("--work", help="folder for the data, which is kept there and taken from there; default: a temporary one")
    p.add_argument("--files", default="", help="of the foreign ones only those whose names this regular expression finds")
    p.add_argument("--peers", default="", help="only those whose names this regular expression finds")
    p.add_argument("--megabytes", type=float, default=800, help="of non-zeros; few leave the loader nothing to decode")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--batch", type=int, default=1024)
    p.add_argument("--only", choices=["cells", "dense", "foreign"])
    p.add_argument("--json", help="file for all figures")
    o = p.parse_args()
    o.build = os.path.abspath(o.build)
    t.EBB = f"{o.build}/apps/ebb"
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    print(f"{cpu}, {CORES} cores; {t.run(['--version']).stdout.strip()}; {time.strftime('%Y-%m-%d %H:%M')}; load {os.getloadavg()[0]:.1f}; "
          f"{o.repeats} repeats in turn")
    pythons, results = Pythons(o), []
    work = o.work or tempfile.mkdtemp(prefix="ebb-peers-")
    os.makedirs(work, exist_ok=True)
    try:
        for contest_of in (cells, dense, foreign):
            if o.only in (None, contest_of.__name__):
                results.append(contest_of(o, pythons, work))
    finally:
        if not o.work:
            shutil.rmtree(work)
    if o.json:
        with open(o.json, "w") as f:
            json.dump(results, f, indent=1)


if __name__ == "__main__":
    main()
