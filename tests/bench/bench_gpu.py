#!/usr/bin/env python3
"""bench_gpu.py [--build DIR] [--json FILE]: sparse products on a GPU beside cuSPARSE and, where it can be imported, PyTorch
(sparse.mm and EmbeddingBag), with copy bandwidth and matmul peaks measured in the same call; then the medians that are to be met.
Skipped (77) without a GPU."""
import argparse
import json
import os
import statistics
import subprocess
import sys


def measure(build):
    env = {**os.environ, "EBB_BACKEND_PATH": os.environ.get("EBB_BACKEND_PATH") or os.path.join(build, "apps")}
    done = subprocess.run([os.path.join(build, "tests/bench_gpu"), "--json"], capture_output=True, text=True, env=env)
    if done.returncode != 0:
        print(done.stdout.strip() or done.stderr.strip())
        sys.exit(done.returncode)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return lines[0], lines[1:]


def torch_seconds(run):
    """Median of 15 calls after a warm-up."""
    import torch
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


def torch_peer(row, rows=4096):
    """PyTorch's best of sparse.mm and EmbeddingBag on a product of this shape."""
    import torch
    cols, each, width = row["cols"], row["nnz_per_row"], row["H"]
    stretch = cols // each
    col = (torch.arange(each) * stretch + torch.randint(stretch, (rows, each))).flatten().cuda()
    val = torch.randn(rows * each, device="cuda")
    start = torch.arange(0, rows * each + 1, each, device="cuda")
    weight = torch.randn(cols, width, device="cuda")
    matrix = torch.sparse_csr_tensor(start, col, val, (rows, cols))
    seconds = [torch_seconds(lambda: torch.sparse.mm(matrix, weight)),
               torch_seconds(lambda: torch.nn.functional.embedding_bag(col, weight, start[:-1], mode="sum", per_sample_weights=val))]
    return min(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--json")
    options = parser.parse_args()
    roofs, table = measure(options.build)
    try:
        import torch
        have_torch = torch.cuda.is_available()
    except ImportError:
        have_torch = False
    print(f"{roofs['device']}\nroofs: copy {roofs['copy_bytes_per_s'] / 1e9:.0f} GB/s, matmul fp32 {roofs['fp32'] / 1e12:.1f}, "
          f"tf32 {roofs['tf32'] / 1e12:.1f}, bf16 {roofs['bf16'] / 1e12:.1f} TFLOP/s")
    print("op           columns    nnz/row    H       time   spread      rate   of copy  x cuSPARSE  x PyTorch")
    for row in table:
        peer = torch_peer(row) if have_torch and row["op"] == "csr x dense" else None
        row["times_torch"] = peer / row["seconds"] if peer else None
        print(f"{row['op']:12} {row['cols']:>8} {row['nnz_per_row']:>8} {row['H']:>5} {row['seconds'] * 1e3:>9.3f} ms {row['spread_percent']:>5.1f} % "
              f"{row['bytes_per_s'] / 1e9:>7.0f} GB/s {row['share_of_copy']:>6.2f} {row['times_cusparse']:>9.2f} "
              + (f"{row['times_torch']:>9.2f}" if peer else "        -"))
    worst = min(row["share_of_copy"] for row in table)
    for peer in ("times_cusparse", "times_torch"):
        values = [row[peer] for row in table if row[peer]]
        if values:
            print(f"{peer}: least {min(values):.2f} (wanted > 1), median {statistics.median(values):.2f} (wanted >= 1.5)")
    print(f"least share of the copy's bandwidth {worst:.2f} (wanted >= 0.70)")
    if options.json:
        with open(options.json, "w") as f:
            json.dump({"roofs": roofs, "table": table}, f)


if __name__ == "__main__":
    main()
