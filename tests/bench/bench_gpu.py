#!/usr/bin/env python3
"""What a GPU has to show, table by table, by one command; every roof is measured in the same call. Skipped (77) without a GPU.

  bench_gpu.py [--build build/release | --bundle DIR] [--only products,steps,end,sums] [--json FILE]

products  CSR x dense and its transpose beside a copy's bandwidth, cuSPARSE and PyTorch (sparse.mm, EmbeddingBag)
steps     training steps of a sparse MLP, a factorization machine and a dense MLP in bf16 beside PyTorch and the matmul peak
end       the same runs from shards on disk: how busy the GPU was (NVML, as the run records it), waiting for the loader, what copying
          ahead gains, and what the host can decode
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


def write_run(place, work, run, sync, max_steps, lanes=4):
    data, model, batch, precision, _ = run
    with open(f"{work}/run.yaml", "w") as f:
        f.write(f"data: {{train: {data}}}\nlanes: {lanes}\nmodel: {model}\n"
                f"train: {{epochs: 1000000, max_steps: {max_steps}, batch: {batch}, backend: {place.o.backend}, precision: {precision}, "
                f"sync: {sync}, optimizer: {{adam: {{lr: 0.0001}}}}, threads: {place.o.threads}}}\n"
                f"run: {{dir: {work}/runs, name: r}}\ncheckpoint: {{every_minutes: 0, every_steps: 0}}\n")
    shutil.rmtree(f"{work}/runs", ignore_errors=True)


def lines_of(work):
    """Lines of steps; a last one that is being written is left out."""
    try:
        with open(f"{work}/runs/r/metrics.jsonl") as f:
            return [m for m in (json.loads(line) for line in f if line.endswith("\n")) if m["kind"] == "step"]
    except FileNotFoundError:
        return []


def between(first, last, member):
    return last.get(member, 0) - first.get(member, 0)


def steady(work, batch):
    """From a third of a run's steps on: a step's seconds, the share of waiting, and of the time that a GPU was busy."""
    lines = lines_of(work)
    if len(lines) < 2:
        raise RuntimeError("too few steps were recorded")
    first, last = lines[len(lines) // 3], lines[-1]
    span, steps, told = (between(first, last, m) for m in ("seconds", "step", "gpu_seconds"))
    if steps < 1 or span <= 0:
        raise RuntimeError("too few steps were recorded")
    return {"step_seconds": span / steps, "rows_per_s": batch * steps / span, "stall": between(first, last, "stall_seconds") / span,
            "busy": between(first, last, "gpu_busy_seconds") / told if told > 0 else None,
            "gpu_seconds": told, "energy": t.record(f"{work}/runs/r").get("energy")}


def check_exit(done, wanted):
    if done.returncode != wanted:
        said = [line for line in done.stderr.splitlines() if line.strip("- ")]
        raise RuntimeError(f"ebb train: exit {done.returncode}: {' / '.join(said[-3:])}")


def train(place, work, run, ranks=0, env=None, sync="canonical", lanes=4):
    """Some hundreds of steps of a run."""
    write_run(place, work, run, sync, 30 if place.o.quick else 600, lanes)
    check_exit(t.run(["train", f"{work}/run.yaml", "--ranks", str(ranks or 1), "--log-every", "10"], ok=False, env=env, timeout=240), 0)
    return steady(work, run[2])


def train_for(place, work, run, seconds, env):
    """As many steps as a run makes in so many seconds after its first ones, for a meter that reads about once a second."""
    write_run(place, work, run, "canonical", 10 ** 9)
    with open(f"{work}/said", "w+") as said:
        process = subprocess.Popen([t.EBB, "train", f"{work}/run.yaml", "--ranks", "1", "--log-every", "10", "-q"], env={**os.environ, **env},
                                   stdout=said, stderr=said)
        limit = time.time() + 120
        while not lines_of(work) and time.time() < limit and process.poll() is None:
            time.sleep(0.1)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.terminate()  # finishes its step and its record
        try:
            process.wait(60)
        finally:
            process.kill()
        said.seek(0)
        check_exit(subprocess.CompletedProcess("ebb", process.returncode, "", said.read()), 75)
    return steady(work, run[2])


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
    print("model            rows/s     step   PyTorch rows/s   ratio    of matmul peak   stall" + ("" if torch else "   (no PyTorch here)"))
    for name, run in runs_of(place, work).items():
        r = results[name] = train(place, work, run)
        peer = torch_step(torch, name, run[2]) if torch else None
        share = r["rows_per_s"] * run[4] / roofs["bf16"] if run[4] else None
        print(f"{name:12} {r['rows_per_s']:>10.0f} {r['step_seconds'] * 1e3:>7.2f} ms "
              + (f"{peer:>14.0f}   {verdict(r['rows_per_s'] / peer, 1.1 if run[4] else 2)} " if peer else f"{'-':>14} {'-':>7} ")
              + (f"  {verdict(share, 0.6)}" if share else f"{'-':>14}") + f"   {r['stall']:.3f}", flush=True)
        r["torch_rows_per_s"], r["share_of_peak"] = peer, share
    return results


def host_limits(data):
    """Rows/s that this host's cores decode in memory, and that its loader delivers where each epoch decodes all, or finds all decoded."""
    done = t.run(["bench", "loader", data, "--json", "--order", "shuffled", "--cache", "warm", "-n", "3", "-t", str(len(os.sched_getaffinity(0)))],
                 ok=False, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"ebb bench loader: {done.stderr.strip()[-200:]}")
    told = json.loads(done.stdout)
    rates = {f"{'kept' if r['kept'] else 'decoding'} loader": r["rows_per_s"] for r in told["loader"] if not r["paced"]}
    rates["decode"] = next(r["rows_per_s"] for r in told["limits"] if r["what"] == "decode")
    return rates


def judge(r, limits):
    """Wanted: a GPU that is busy and a loader that keeps up, or a run as fast as the host decodes."""
    if r["busy"] is not None and r["busy"] >= 0.95 and r["stall"] < 0.01:
        return "met"
    rate, limit = r["rows_per_s"], limits.get("decoding loader", limits["decode"])
    if r["stall"] >= 0.01 and rate >= 0.9 * limit:
        return f"the host's decode limit is reached: {rate / limit:.2f} of what the loader delivers alone"
    return "not known without NVML" if r["busy"] is None and r["stall"] < 0.01 else "NOT MET"


def end(place, roofs, work):
    results = {}
    one_gpu = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}  # a run is charged what it sees
    print("model         copies ahead    rows/s   GPU busy (wanted >= 0.95)   loader stall (wanted < 0.01)")
    for name, run in runs_of(place, work).items():
        limits = results[f"{name}, host"] = host_limits(run[0])
        for ahead in ("0", "2"):
            r = results[f"{name}, {ahead} ahead"] = train_for(place, work, run, 3 if place.o.quick else 25, {**one_gpu, "EBB_CUDA_COPY_AHEAD": ahead})
            busy = f"{r['busy']:.3f} over {r['gpu_seconds']:.0f} s" if r["busy"] is not None else "not told"
            print(f"{name:12} {ahead:>12} {r['rows_per_s']:>12.0f}   {busy:25}   {r['stall']:.4f}   {judge(r, limits)}", flush=True)
        print("  this host, rows/s: " + ", ".join(f"{what} {rate:.0f}" for what, rate in limits.items()))
        for gpu in (r["energy"] or {}).get("gpus", []):
            print(f"  the last run's GPU: {json.dumps(gpu)}")
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
    # what a rank computes of a step, by one that has nobody to exchange with
    half, lanes = (run, 4) if gpus < 2 else ((*run[:2], run[2] // 2, *run[3:]), 2)
    alone = results["alone"] = train(place, work, half, lanes=lanes)
    print(f"passes and updates of a step, alone: {alone['step_seconds'] * 1e3:.2f} ms")
    print("sync                            rows/s       step   exchange shows in a step")
    for name, sync, more in (("canonical", "canonical", {}), ("canonical, after the passes", "canonical", {"EBB_OVERLAP": "0"}), ("fast", "fast", {})):
        r = results[name] = train(place, work, run, ranks=2, env={**env, **more}, sync=sync)
        r["shown"] = 1 - alone["step_seconds"] / r["step_seconds"]
        print(f"{name:28} {r['rows_per_s']:>9.0f} {r['step_seconds'] * 1e3:>7.2f} ms   {r['shown']:.3f}" + (" (wanted <= 0.10)" if name == "canonical" else ""), flush=True)
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
