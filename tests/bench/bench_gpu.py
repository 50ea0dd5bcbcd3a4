#!/usr/bin/env python3
"""What a GPU has to show, table by table, by one command; every roof is measured in the same call. Skipped (77) without a GPU.

  bench_gpu.py [--build build/release | --bundle DIR] [--only products,steps,end,sums] [--json FILE]

products  CSR x dense and its transpose beside a copy's bandwidth, cuSPARSE and PyTorch (sparse.mm, EmbeddingBag)
steps     training steps of a sparse MLP, a factorization machine and a dense MLP in bf16 beside PyTorch and the matmul peak
end       the same runs from shards on disk: the GPU's utilisation, waiting for the loader, what copying ahead gains
sums      canonical sums on two ranks beside NCCL's all-reduce, and how much of a step they show

PyTorch's figures are left out, visibly, where it cannot be imported; its batches lie on the GPU already, Ebb's come from disk. What
should be met stands beside each figure; a table that fails is named at the end and the others go on. --backend cuda_double --quick is a
trial of the script itself, without a GPU: its figures mean nothing."""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbtest as t

WIDE = [4096, 4096, 4096]


class Place:
    """Where programs are: a build, or a bundle."""

    def __init__(self, o):
        self.o = o
        root = os.path.abspath(o.bundle or o.build)
        t.EBB = os.environ.get("EBB") or (f"{root}/bin/ebb" if o.bundle else f"{root}/apps/ebb")
        self.start = [f"{root}/bin/run-with"] if o.bundle else []
        self.folder = f"{root}/libexec/bench" if o.bundle else f"{root}/tests"
        if not o.bundle:
            os.environ.setdefault("EBB_BACKEND_PATH", f"{root}/apps")

    def bench(self, program, *args):
        if not os.path.exists(f"{self.folder}/{program}"):
            return subprocess.CompletedProcess(program, 66, "", f"{program} is not in {self.folder}")
        return subprocess.run([*self.start, f"{self.folder}/{program}", *args], capture_output=True, text=True)


def torch_here():
    try:
        import torch
        return torch if torch.cuda.is_available() else None
    except ImportError:
        return None


def roofs_of(place):
    done = place.bench("bench_gpu", "--json", "--roofs")
    if done.returncode != 0:
        print(done.stdout.strip() or done.stderr.strip())
        if place.o.backend == "cuda":
            sys.exit(done.returncode)
        return {"device": "no GPU", "copy_bytes_per_s": 1, "fp32": 1, "tf32": 1, "bf16": 1}
    return json.loads(done.stdout.splitlines()[0])


def verdict(value, least):
    return f"{value:.2f} (wanted >= {least:.2f}{'' if value >= least else ', NOT MET'})"


# ---- products ----


def torch_seconds(torch, run):
    """Median of 15 calls after a warm-up."""
    times = []
    for i in range(18):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        if i >= 3:
            times.append(begin.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def torch_product(torch, row, rows=4096):
    """PyTorch's best of sparse.mm and EmbeddingBag on a product of this shape; of the transpose sparse.mm alone."""
    cols, each, width = row["cols"], row["nnz_per_row"], row["H"]
    stretch = cols // each
    col = (torch.arange(each) * stretch + torch.randint(stretch, (rows, each))).flatten().cuda()
    val = torch.randn(rows * each, device="cuda")
    start = torch.arange(0, rows * each + 1, each, device="cuda")
    matrix = torch.sparse_csr_tensor(start, col, val, (rows, cols))
    if row["op"] != "csr x dense":
        back, grad = matrix.t().to_sparse_csr(), torch.randn(rows, width, device="cuda")
        return torch_seconds(torch, lambda: torch.sparse.mm(back, grad))
    weight = torch.randn(cols, width, device="cuda")
    return min(torch_seconds(torch, lambda: torch.sparse.mm(matrix, weight)),
               torch_seconds(torch, lambda: torch.nn.functional.embedding_bag(col, weight, start[:-1], mode="sum", per_sample_weights=val)))


def products(place, roofs, work):
    done = place.bench("bench_gpu", "--json")
    if done.returncode != 0:
        raise RuntimeError(done.stdout.strip() + done.stderr.strip())
    table, torch = [json.loads(line) for line in done.stdout.splitlines()[1:]], torch_here()
    print("op           columns    nnz/row    H       time   spread      rate   of copy  x cuSPARSE  x PyTorch")
    for row in table:
        peer = torch_product(torch, row) if torch else None
        row["times_torch"] = peer / row["seconds"] if peer else None
        print(f"{row['op']:12} {row['cols']:>8} {row['nnz_per_row']:>8} {row['H']:>5} {row['seconds'] * 1e3:>9.3f} ms {row['spread_percent']:>5.1f} % "
              f"{row['bytes_per_s'] / 1e9:>7.0f} GB/s {row['share_of_copy']:>6.2f} {row['times_cusparse']:>9.2f} "
              + (f"{row['times_torch']:>9.2f}" if peer else "        -"), flush=True)
    for peer in ("times_cusparse", "times_torch"):
        values = [row[peer] for row in table if row[peer]]
        if values:
            print(f"{peer}: least {verdict(min(values), 1)}, median {verdict(statistics.median(values), 1.5)}")
    print(f"least share of the copy's bandwidth {verdict(min(row['share_of_copy'] for row in table), 0.7)}")
    return table


# ---- runs ----


class Watch(threading.Thread):
    """The first GPU's utilisation in percent while a run works, as nvidia-smi tells it."""

    def __init__(self):
        super().__init__()
        self.values = []
        self.process = None
        if shutil.which("nvidia-smi"):
            self.process = subprocess.Popen(["nvidia-smi", "-i", "0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"],
                                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.start()

    def run(self):
        for line in self.process.stdout if self.process else []:
            if line.strip().isdigit():
                self.values.append((time.time(), int(line)))

    def busy(self, since):
        """Of the time from `since` to now; None where nobody tells."""
        if self.process:
            self.process.terminate()
            self.process.wait()
        self.join()
        values = [v for at, v in self.values if at >= since]
        return statistics.mean(values) if values else None


def make_data(place, work, kind, rows):
    folder = f"{work}/{kind}"
    if not os.path.exists(folder):
        done = place.bench("make_data", kind, str(rows), folder)
        if done.returncode != 0:
            raise RuntimeError(f"make_data: {done.stderr.strip()}")
    return folder


def make_pairs(work, rows):
    """Two classes, for the factorization machine."""
    if not os.path.exists(f"{work}/pairs"):
        t.sparse_data(f"{work}/pairs.svm", rows, 1 << 18, 30, 2, 1)
        t.run(["pack", f"{work}/pairs.svm", f"{work}/pairs"])
    return f"{work}/pairs"


def runs_of(place, work):
    """Name: data, model, batch, precision, floating-point operations a row (None: sparse)."""
    quick = place.o.quick
    wide = [64, 64] if quick else WIDE
    widths = [784, *wide, 10]
    flop = 6 * sum(a * b for a, b in zip(widths, widths[1:]))
    layers = ", ".join(f"{{linear: {{out: {w}}}}}, relu" for w in wide)
    rows = 2000 if quick else 1 << 20
    return {"sparse MLP": (make_data(place, work, "text", rows), "{layers: [{linear: {out: 64}}, relu, linear]}", 240 if quick else 24576, "fp32", None),
            "FM": (make_pairs(work, 2000 if quick else 100000), "{loss: binary_cross_entropy, layers: [{fm: {rank: 16}}]}", 240 if quick else 24576, "fp32", None),
            "dense MLP": (make_data(place, work, "dense", rows // 4), f"{{layers: [{layers}, linear]}}", 240 if quick else 32768, "bf16", flop)}


def train(place, work, run, ranks=0, env=None, sync="canonical"):
    """Steady state of a run: from a third of its steps on. A step's seconds, shares of waiting and exchange, utilisation."""
    data, model, batch, precision, _ = run
    with open(f"{work}/run.yaml", "w") as f:
        f.write(f"data: {{train: {data}}}\nlanes: 4\nmodel: {model}\n"
                f"train: {{epochs: 1000, max_steps: {30 if place.o.quick else 600}, batch: {batch}, backend: {place.o.backend}, precision: {precision}, "
                f"sync: {sync}, optimizer: {{adam: {{lr: 0.0001}}}}, threads: {place.o.threads}}}\n"
                f"run: {{dir: {work}/runs, name: r}}\ncheckpoint: {{every_minutes: 0, every_steps: 0}}\n")
    shutil.rmtree(f"{work}/runs", ignore_errors=True)
    watch, began = Watch(), time.time()
    done = t.run(["train", f"{work}/run.yaml", "--ranks", str(ranks or 1), "--log-every", "10"], ok=False, env=env, timeout=240)
    ended = time.time()
    busy = watch.busy(began + (ended - began) / 3)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip("- ")]
        raise RuntimeError(f"ebb train: exit {done.returncode}: {' / '.join(said[-3:])}")
    lines = [m for m in t.metrics(f"{work}/runs/r") if "rows_per_s" in m and "step" in m]
    first, last = lines[len(lines) // 3], lines[-1]
    span, steps = last["seconds"] - first["seconds"], last["step"] - first["step"]
    if steps < 1 or span <= 0:
        raise RuntimeError("too few steps were recorded")
    return {"step_seconds": span / steps, "rows_per_s": batch * steps / span, "busy": busy,
            "stall": (last["stall_seconds"] - first["stall_seconds"]) / span, "sync": (last["sync_seconds"] - first["sync_seconds"]) / span,
            "energy": t.record(f"{work}/runs/r").get("energy")}


def torch_step(torch, name, batch):
    """PyTorch's rows/s at its best way; the batch lies on the GPU."""
    torch.manual_seed(1)
    label = torch.randint(2 if name == "FM" else 10, (batch,), device="cuda")
    best = 0.0
    for way in ("compiled", "plain") if name == "dense MLP" else ("sparse", "dense"):
        try:
            best = max(best, batch / torch_seconds(torch, torch_program(torch, name, way, batch, label)))
        except RuntimeError as e:
            print(f"  PyTorch, {name}, {way}: {str(e).splitlines()[0]}")
    return best or None


def torch_program(torch, name, way, batch, label):
    nn = torch.nn
    if name == "dense MLP":
        widths = [784, *WIDE, 10]
        layers = [m for a, b in zip(widths, widths[1:]) for m in (nn.Linear(a, b), nn.ReLU())][:-1]
        model, inputs, sparse = nn.Sequential(*layers).cuda(), (torch.rand(batch, 784, device="cuda"),), []
        forward = torch.compile(model, mode="reduce-overhead") if way == "compiled" else model
    else:
        col = torch.randint(1 << 18, (batch * 32,), device="cuda")
        val, ptr = torch.rand(batch * 32, device="cuda"), torch.arange(0, batch * 32 + 1, 32, device="cuda")
        width = 17 if name == "FM" else 64
        bag = nn.EmbeddingBag(1 << 18, width, mode="sum", sparse=way == "sparse", include_last_offset=True).cuda()
        model, inputs, sparse = (nn.Linear(64, 10).cuda() if name != "FM" else nn.Linear(1, 1).cuda()), (), list(bag.parameters())

        def forward():
            s = bag(col, ptr, per_sample_weights=val)
            if name != "FM":
                return model(torch.relu(s))
            squares = nn.functional.embedding_bag(col, bag.weight[:, 1:] ** 2, ptr, mode="sum", per_sample_weights=val ** 2, include_last_offset=True)
            return model(s[:, :1] + 0.5 * (s[:, 1:] ** 2 - squares).sum(1, keepdim=True))
    optims = [torch.optim.Adam(model.parameters(), fused=True)]
    if sparse:
        optims.append(torch.optim.SparseAdam(sparse) if way == "sparse" and name != "FM" else torch.optim.Adam(sparse, fused=True))
        if way == "sparse" and name == "FM":
            raise RuntimeError("a sparse gradient of the squares is not to be had")

    def step():
        with torch.autocast("cuda", torch.bfloat16, enabled=name == "dense MLP"):
            out = forward(*inputs)
            loss = nn.functional.binary_cross_entropy_with_logits(out[:, 0], label.float()) if name == "FM" else nn.functional.cross_entropy(out, label)
        for o in optims:
            o.zero_grad()
        loss.backward()
        for o in optims:
            o.step()
    return step


def steps(place, roofs, work):
    results, torch = {}, torch_here()
    print("model            rows/s     step   PyTorch rows/s   ratio    of matmul peak   stall   exchange" + ("" if torch else "   (no PyTorch here)"))
    for name, run in runs_of(place, work).items():
        r = results[name] = train(place, work, run)
        peer = torch_step(torch, name, run[2]) if torch else None
        share = r["rows_per_s"] * run[4] / roofs["bf16"] if run[4] else None
        print(f"{name:12} {r['rows_per_s']:>10.0f} {r['step_seconds'] * 1e3:>7.2f} ms "
              + (f"{peer:>14.0f}   {verdict(r['rows_per_s'] / peer, 1.1 if run[4] else 2)} " if peer else f"{'-':>14} {'-':>7} ")
              + (f"  {verdict(share, 0.6)}" if share else f"{'-':>14}") + f"   {r['stall']:.3f}   {r['sync']:.3f}", flush=True)
        r["torch_rows_per_s"], r["share_of_peak"] = peer, share
    return results


def decode_limit(data):
    """Rows/s that the host decodes in memory with all its threads, by `ebb bench loader`."""
    done = t.run(["bench", "loader", data, "--json"], ok=False, timeout=120)
    return done.stdout.strip().splitlines()[-1][:300] if done.returncode == 0 and done.stdout.strip() else done.stderr.strip()[-200:]


def end(place, roofs, work):
    results = {}
    print("model         copies ahead    rows/s    GPU busy                        stall")
    for name, run in runs_of(place, work).items():
        for ahead in ("0", "2"):
            r = results[f"{name}, {ahead} ahead"] = train(place, work, run, env={"EBB_CUDA_COPY_AHEAD": ahead})
            busy = verdict(r["busy"] / 100, 0.95) if r["busy"] is not None else "not told"
            print(f"{name:12} {ahead:>12} {r['rows_per_s']:>12.0f}    {busy:30}  {r['stall']:.4f} (wanted < 0.01)", flush=True)
        if r["stall"] >= 0.01 and not place.o.quick:
            print(f"  the host's limit: {decode_limit(run[0])}")
        print(f"  energy of the run: {json.dumps(r['energy'])[:300]}")
    return results


# ---- sums ----


def sums(place, roofs, work):
    results, env, run = {}, {}, runs_of(place, work)["dense MLP"]
    gpus = 2 if place.o.backend != "cuda" else len(subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.splitlines())
    if place.o.backend != "cuda":
        env["EBB_DOUBLE_GPUS"] = "2"
    elif gpus < 2:
        env["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
        print("one GPU: two ranks share it (NCCL >= 2.30), so their passes take turns")
    print("sync         rows/s      step   exchange's share of a step")
    for sync in ("canonical", "fast"):
        r = results[sync] = train(place, work, run, ranks=2, env=env, sync=sync)
        print(f"{sync:9} {r['rows_per_s']:>9.0f} {r['step_seconds'] * 1e3:>7.2f} ms   {r['sync']:.3f} (wanted <= 0.10)", flush=True)
    ratio = results["canonical"]["step_seconds"] / results["fast"]["step_seconds"]
    print(f"canonical / fast: {ratio:.2f} (wanted <= 1.10{'' if ratio <= 1.1 else ', NOT MET'})")
    return results


TABLES = {"products": products, "steps": steps, "end": end, "sums": sums}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--bundle")
    parser.add_argument("--only", default=",".join(TABLES))
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--threads", type=int, default=2, help="of each rank, which is streams on its GPU")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("--work", help="folder for the data sets, which stay there; default: one that goes")
    o = parser.parse_args()
    place, results, failed = Place(o), {}, []
    results["roofs"] = roofs = roofs_of(place)
    print(f"{roofs['device']}\nroofs: copy {roofs['copy_bytes_per_s'] / 1e9:.0f} GB/s, matmul fp32 {roofs['fp32'] / 1e12:.1f}, "
          f"tf32 {roofs['tf32'] / 1e12:.1f}, bf16 {roofs['bf16'] / 1e12:.1f} TFLOP/s")
    with tempfile.TemporaryDirectory(prefix="ebb-gpu-bench-") as own:
        work = os.path.abspath(o.work or own)
        os.makedirs(work, exist_ok=True)
        for name in o.only.split(","):
            print(f"\n-- {name}", flush=True)
            try:
                results[name] = TABLES[name](place, roofs, work)
            except (RuntimeError, SystemExit, OSError, subprocess.SubprocessError, KeyError, IndexError) as e:
                print(f"FAILED: {name}: {e}", flush=True)
                failed.append(name)
            if o.json:
                with open(o.json, "w") as f:
                    json.dump(results, f)
    if failed:
        sys.exit(f"tables that could not be made: {', '.join(failed)}")


if __name__ == "__main__":
    main()
