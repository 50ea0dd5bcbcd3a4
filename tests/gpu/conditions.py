#!/usr/bin/env python3
"""conditions.py [CASE ...]: what a run on GPUs does where something is wrong, and which GPUs it takes, on the double of the CUDA
runtime and of NCCL (EBB_BACKEND_PATH names their folder). Every failure is one clear line, ends all ranks in time and leaves a
record that says so."""
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbtest as t

EBB, LIMIT = t.EBB, 150
# As in support/mpirun, for the ranks that the command starts itself.
os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_btl_vader_single_copy_mechanism="none",
                  HWLOC_COMPONENTS="-gl", HWLOC_HIDE_ERRORS="2", ASAN_OPTIONS="detect_leaks=0:" + os.environ.get("ASAN_OPTIONS", ""))
RUN = """
data: {{train: {folder}/data}}
lanes: 6
model: {{layers: [{{linear: {{out: 16}}}}, relu, linear]}}
train: {{batch: 60, epochs: 40, max_steps: 20, threads: 1, backend: cuda_double, optimizer: {{adam: {{lr: 0.01}}}}}}
run: {{dir: {folder}/runs}}
"""


class Runs:
    def __init__(self, folder):
        self.folder, self.n = folder, 0
        t.sparse_data(f"{folder}/data.svm", 500, 3001, 12, 3, 1)
        t.run(["pack", f"{folder}/data.svm", f"{folder}/data"])
        self.wide = f"{folder}/wide"
        os.mkdir(f"{folder}/npy")
        t.dense_data(f"{folder}/npy", 500, 4000, 3, 1)
        t.run(["pack", f"{folder}/npy/x.npy", self.wide, "--target", f"{folder}/npy/y.npy"])
        with open(f"{folder}/run.yaml", "w") as f:
            f.write(RUN.format(folder=folder))

    def go(self, ranks, code, words="", env=None, set=(), each=None, options=()):
        """Train; each: {rank: {variable: value}} of single ranks. Returns the folder of the run and stderr."""
        self.n += 1
        args = ["train", f"{self.folder}/run.yaml", "--set", f"run.name=r{self.n}", *options]
        args += [a for s in set for a in ("--set", s)]
        t.EBB = self.wrap(each) if each else EBB
        start = time.time()
        done = t.run(args, ranks, ok=False, env=env, timeout=LIMIT)
        t.EBB = EBB
        if done.returncode != code or not re.search(words, done.stderr):
            t.fail(f"wanted exit {code} and \"{words}\", got {done.returncode} after {time.time() - start:.1f} s\n{done.stderr}")
        return f"{self.folder}/runs/r{self.n}", done.stderr

    def wrap(self, each):
        path = f"{self.folder}/wrapped"
        with open(path, "w") as f:
            f.write('#!/bin/sh\ncase "$OMPI_COMM_WORLD_RANK" in\n')
            for rank, env in each.items():
                f.write(f"{rank}) export " + " ".join(f"{k}='{v}'" for k, v in env.items()) + " ;;\n")
            f.write(f'esac\nexec {EBB} "$@"\n')
        os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
        return path


def no_gpu(runs):
    runs.go(0, 69, "there is no GPU that CUDA can use here", {"EBB_DOUBLE_GPUS": "0"})


def old_driver(runs):
    runs.go(0, 69, r"the NVIDIA driver is for CUDA \d+\.\d, older than this Ebb's CUDA \d+\.\d: install a newer one", {"EBB_DOUBLE_GPUS": "-1"})


def no_driver(runs):
    runs.go(0, 69, r"there is no NVIDIA driver .*: install one for CUDA \d+\.\d or newer", {"EBB_DOUBLE_GPUS": "-2"})


def nonsense_in_visible_devices(runs):
    for names in ("0,9", "0,0,x"):
        runs.go(0, 69, f"CUDA_VISIBLE_DEVICES={names} names . GPUs, but CUDA finds 1", {"CUDA_VISIBLE_DEVICES": names})
    runs.go(0, 69, r"there is no GPU .*CUDA_VISIBLE_DEVICES is -1", {"EBB_DOUBLE_GPUS": "0", "CUDA_VISIBLE_DEVICES": "-1"})


def too_little_memory(runs):
    """Passes or batches copied ahead may be too large: the batch that is named fits indeed, one twice as large does not."""
    wide = "model={layers: [{linear: {out: 16}}, relu, {linear: {out: 131072}}, linear]}"
    for mib, words, settings in ((200, r"need \d{3,} MiB.*; or raise train.accumulate", ["train.batch=480", wide]),
                                 (74, r"ahead \d\d MiB.*; or use more ranks", ["train.batch=480", f"data.train={runs.wide}"])):
        env = {"EBB_DOUBLE_BYTES": str(mib << 20)}
        _, err = runs.go(0, 71, rf"out of GPU memory: .*{words}", env, settings)
        most = int(re.search(r"MiB are free on .*: the largest train\.batch that fits is about (\d+)", err).group(1))
        if not 0 < most < 480:
            t.fail(f"{most} rows are named where 480 do not fit")
        runs.go(0, 0, "", env, [f"train.batch={most}", "train.max_steps=2", *settings[1:]])
        runs.go(0, 71, "out of GPU memory", env, [f"train.batch={2 * most}", *settings[1:]])


def lanes_come_one_by_one_where_memory_is_short(runs):
    """Where the activations of all lanes do not fit, but those of one do: told, and the same bits."""
    settings = [*dense_settings(runs)[:1], "model={layers: [{linear: {out: 20000}}, relu, linear]}", "train.batch=600", "train.max_steps=2"]
    (wide, _), (short, err) = (runs.go(0, 0, "", {"EBB_DOUBLE_BYTES": str(mib << 20), "EBB_LOG": "info"}, settings) for mib in (1000, 200))
    if t.record(wide)["buckets"] != 1 or t.record(short)["buckets"] != 0 or t.hashes(wide) != t.hashes(short):
        t.fail(f"{t.record(wide)['buckets']} and {t.record(short)['buckets']} buckets, {t.hashes(wide)} and {t.hashes(short)}")
    if "sums and updates follow the backward pass: activations: out of GPU memory" not in err:
        t.fail(f"nothing is told of it:\n{err}")


def as_many_streams_as_cores_but_four_at_most(runs):
    """Where train.threads is left to Ebb."""
    cores = len(os.sched_getaffinity(0))
    for threads, wanted in ((0, min(cores, 4)), (5, 5)):
        folder, _ = runs.go(0, 0, set=[f"train.threads={threads}"])
        if t.record(folder)["threads"] != wanted:
            t.fail(f"train.threads={threads}: {t.record(folder)['threads']} threads, wanted {wanted}")


def which_gpu(runs):
    """Ranks take the GPUs of their host in turn, say which, and NCCL joins them where they have one each; the bits are the same."""
    want = t.hashes(runs.go(0, 0)[0])
    for ranks, gpus, wire, told in ((3, 4, "nccl", [0, 1, 2]), (3, 2, "mpi", [0, 1, 0])):
        folder, err = runs.go(ranks, 0, f"joined by {wire}", {"EBB_DOUBLE_GPUS": str(gpus)})
        record = t.record(folder)
        if [int(d.rsplit(" ", 1)[1]) for d in record["devices"]] != told or record["wire"] != wire:
            t.fail(f"{ranks} ranks on {gpus} GPUs: {record['devices']}, {record['wire']}")
        if len(re.findall(r"rank \d on .*: double of a GPU", err)) != ranks:
            t.fail(f"every rank should say its GPU:\n{err}")
        if t.hashes(folder) != want:
            t.fail(f"{ranks} ranks on {gpus} GPUs: other bits than one rank")
    folder, _ = runs.go(2, 0, "joined by mpi", {"EBB_DOUBLE_GPUS": "2"}, ["train.wire=mpi"])
    if t.hashes(folder) != want:
        t.fail("by host memory: other bits")
    runs.go(2, 0, "joined by nccl", {"EBB_DOUBLE_GPUS": "2"}, ["train.sync=fast"])
    runs.go(2, 64, "ranks 0 and 1 share GPU 0 of .*, which NCCL does not do", {"EBB_DOUBLE_GPUS": "1"}, ["train.wire=nccl"])


def one_rank_a_gpu(runs):
    """Alone on a machine with several GPUs the command starts the ranks itself."""
    for gpus, options, ranks in ((2, [], 2), (2, ["--ranks", "1"], 1), (1, ["--ranks", "2"], 2), (8, [], 6)):
        folder, _ = runs.go(0, 0, "", {"EBB_DOUBLE_GPUS": str(gpus)}, options=options)
        if t.record(folder)["ranks"] != ranks:
            t.fail(f"{gpus} GPUs {options}: {t.record(folder)['ranks']} ranks, wanted {ranks}")
    t.run(["run", "--ranks", "1", f"{runs.folder}/run.yaml", "--set", "run.name=supervised"], env={"EBB_DOUBLE_GPUS": "2"})
    if t.record(f"{runs.folder}/runs/supervised")["ranks"] != 1:
        t.fail("a supervisor decides itself how many ranks there are")
    runs.go(0, 69, "cannot start 2 ranks: mpirun: .*--ranks 1", {"EBB_DOUBLE_GPUS": "2", "PATH": "/nowhere"})


def precision(runs):
    """tf32 and bf16 give bits of their own, the same for any number of ranks; the CPU has neither."""
    seen = {t.hashes(runs.go(0, 0)[0])}
    for kind in ("tf32", "bf16"):
        one, three = (t.hashes(runs.go(n, 0, "", set=[f"train.precision={kind}"])[0]) for n in (0, 2))
        if one != three or one in seen:
            t.fail(f"{kind}: {one} on one rank, {three} on two")
        seen.add(one)
    runs.go(0, 64, "train.precision: backend cpu computes in fp32", set=["train.precision=bf16", "train.backend=cpu"])


def copies_ahead(runs):
    """Batches are copied ahead of the passes or with them: the same bits over several epochs, from rows of changing length."""
    want = t.hashes(runs.go(0, 0, env={"EBB_CUDA_COPY_AHEAD": "0"}, set=["train.threads=2"])[0])
    for ahead, ranks in (("1", 0), ("2", 0), ("2", 3), ("all", 0)):
        folder, _ = runs.go(ranks, 0, env={"EBB_CUDA_COPY_AHEAD": ahead}, set=["train.threads=2"])
        if t.hashes(folder) != want:
            t.fail(f"EBB_CUDA_COPY_AHEAD={ahead} on {ranks} ranks: other bits than without copies ahead")


def dense_settings(runs, dropout=0.1):
    """Of runs of a dense model over an epoch of 70 steps of equal size."""
    if not os.path.exists(f"{runs.folder}/dense"):
        t.dense_data(runs.folder, 4200, 7, 4, 2)
        t.run(["pack", f"{runs.folder}/x.npy", f"{runs.folder}/dense", "--target", f"{runs.folder}/y.npy"])
        t.dense_data(runs.folder, 400, 7, 4, 3)
        t.run(["pack", f"{runs.folder}/x.npy", f"{runs.folder}/valid", "--target", f"{runs.folder}/y.npy"])
    return [f"data.train={runs.folder}/dense", 
            f"model={{layers: [{{linear: {{out: 17}}}}, relu, {f'{{dropout: {{p: {dropout}}}}}, ' if dropout else ''}layer_norm, linear]}}"]


def counts_a_step(runs, settings, env=None):
    """What the double counts in one step, from runs of two lengths."""
    counted = []
    for steps in (15, 35):
        path = f"{runs.folder}/counts-{runs.n}"
        runs.go(0, 0, env={**(env or {}), "EBB_DOUBLE_COUNTS": path}, set=[*settings, f"train.max_steps={steps}"])
        with open(path) as f:
            counted.append([json.loads(line) for line in f])
    return {key: (sum(c[key] for c in counted[1]) - sum(c[key] for c in counted[0])) / 20 for key in counted[0][0]}


def a_dense_step_waits_for_the_device_once(runs):
    """Once a stream, however many lanes and pieces there are; clipping waits for the norm too."""
    dense = dense_settings(runs)
    for more, wanted in (([], 1), (["lanes=3"], 1), (["train.accumulate=3"], 1), (["train.sync=fast"], 1), (["train.threads=2"], 2),
                         (["train.clip_norm=1.0"], 2)):
        waits = counts_a_step(runs, dense + more)["waits"]
        if abs(waits - wanted) >= 0.25: # in one run or the other a context gets its first lanes late, and its memory grows
            t.fail(f"{more}: a step waits {waits} times, not {wanted}")


def a_sparse_step_waits_as_often_however_many_lanes_there_are(runs):
    """For the losses once a stream, and for the lanes' sum; with train.accumulate for the sum of each lane's pieces too."""
    embedding = "model={layers: [{embedding: {dim: 4}}, relu, linear]}"
    for more, wanted in (([], 3), (["train.threads=2"], 4), (["lanes=3"], 3), ([embedding], 3), (["train.accumulate=2"], 15)):
        waits = counts_a_step(runs, more)["waits"]
        if abs(waits - wanted) >= 0.25:
            t.fail(f"{more}: a step waits {waits} times, not {wanted}")


def weights_are_rounded_to_bf16_once_a_step(runs):
    """For all lanes; a lane rounds but its own factors, and weights whose rows are no full words."""
    dense = [*dense_settings(runs)[:1], "model={layers: [{linear: {out: 16}}, relu, {linear: {out: 8}}, relu, linear]}"]
    dense.append("train.threads=1") # two add gradients up in another order each time
    for lanes in (2, 5):
        fp32, bf16 = (counts_a_step(runs, [*dense, f"lanes={lanes}", f"train.precision={precision}"],
                                    {"EBB_CUDA_COPY_AHEAD": "0", "EBB_CUDA_GRAPHS": "0"})["enqueued"] for precision in ("fp32", "bf16"))
        # 8 products of two factors, 3 of which are weights in full words
        if bf16 - fp32 != 13 * lanes + 1:
            t.fail(f"{lanes} lanes: {bf16 - fp32} more are enqueued a step than in fp32, not {13 * lanes + 1}")


def passes_are_replayed_as_graphs(runs):
    """From its second time on a lane's pass is one graph, whose bits are those of plain launches, also where lanes' numbers of rows
    change, memory moves in between, and several contexts and ranks take part. Dropout and sparse rows have none."""
    plain, dense = {"EBB_CUDA_GRAPHS": "0"}, dense_settings(runs, 0)
    # two a lane, of the forward pass and the backward pass, where all lanes' activations are kept; else one a piece
    for more, graphs, ranks in (([], 12, 0), (["train.threads=2"], 12, 0), (["train.accumulate=2", "train.class_weights=balanced"], 12, 0),
                                (["train.sync=fast"], 6, 0), (["train.precision=bf16"], 12, 3)):
        settings = dense + more
        each = [counts_a_step(runs, settings, env) for env in (None, plain)] if not ranks else None
        # contexts that share buffers come to their own ones within some steps, sooner in one run than in another
        if each and (not 0.9 * graphs < each[0]["graphs"] < 1.1 * graphs or each[1]["graphs"] != 0 or each[0]["enqueued"] > each[1]["enqueued"] - 8 * graphs):
            t.fail(f"{more}: a step with graphs and without: {each}")
        # 14 steps of 300 rows, but for an epoch's last of 299; evaluation on the same contexts moves their memory
        settings = settings + ["train.batch=301", "train.max_steps=33", f"data.valid={runs.folder}/valid"]
        folders = [runs.go(n, 0, env=env, set=settings)[0] for n, env in ((ranks, None), (ranks, plain))]
        if t.hashes(folders[0]) != t.hashes(folders[1]):
            t.fail(f"{more}: graphs give other bits")
    for settings in (dense_settings(runs, 0.1), []):
        each = counts_a_step(runs, settings)
        if each["graphs"] != 0:
            t.fail(f"{settings}: {each}")


def mixed_kinds(runs):
    each = {1: {"EBB_DOUBLE_KIND": "another GPU"}}
    runs.go(2, 64, "rank 1 computes on another GPU .*equal bits on GPUs of one kind only", {"EBB_DOUBLE_GPUS": "2"}, each=each)
    runs.go(2, 0, "", {"EBB_DOUBLE_GPUS": "2"}, ["train.sync=fast"], each=each)


def ends_all(runs, words, code, ranks, env, each):
    folder, err = runs.go(ranks, code, words, {"EBB_DOUBLE_GPUS": "4", **env}, each=each)
    if t.record(folder)["outcome"] != "failed":
        t.fail(f"the record should say failed, not {t.record(folder)['outcome']}\n{err}")


def lost_gpu(runs):
    """A GPU that falls off, in passes or in sums, alone or on one of several ranks."""
    for waits in (40, 41):
        ends_all(runs, "the GPU is lost to this process: see `dmesg", 69, 0, {"EBB_DOUBLE_LOST": str(waits)}, None)
    for waits in (40, 41):
        ends_all(runs, "the GPU is lost to this process: see `dmesg", 69, 3, {}, {1: {"EBB_DOUBLE_LOST": str(waits)}})


def nccl_fails(runs):
    """An error of NCCL at once or later, and a call that never ends, on one rank of three."""
    for call, kind in ((1, "async"), (17, "error"), (17, "hang")):
        folder, err = runs.go(3, 69, "NCCL: .* on rank [0-2]: ", {"EBB_DOUBLE_GPUS": "3", "EBB_NCCL_FAULT": f"2:{call}:{kind}"},
                              ["run.watchdog=3"])
        if t.record(folder)["outcome"] != "failed":
            t.fail(f"{kind} in call {call}: the record says {t.record(folder)['outcome']}\n{err}")


def nccl_is_missing(runs):
    """Without NCCL's library gradients go through host memory, unless it was insisted on."""
    folder = f"{runs.folder}/no-nccl"
    os.mkdir(folder)
    os.symlink(os.path.join(os.path.abspath(os.environ["EBB_BACKEND_PATH"]), "libebb_cuda_double.so"), f"{folder}/libebb_cuda_double.so")
    env = {"EBB_DOUBLE_GPUS": "2", "EBB_BACKEND_PATH": folder}
    runs.go(2, 0, "gradients go through host memory, since NCCL cannot be used: wire nccl_double is not installed", env)
    runs.go(2, 69, "wire nccl_double is not installed", env, ["train.wire=nccl"])


def until_the_meter_was_read(folder, env):
    """Go on with a run until lines of steps tell of GPUs, which they do after a second; those lines."""
    process = subprocess.Popen([EBB, "train", "--resume", folder, "--set", "train.max_steps=1000000", "--log-every", "1", "-q"],
                               env={**os.environ, **env})
    end = time.time() + LIMIT
    while not (lines := [m for m in t.metrics(folder) if "gpu_seconds" in m]) and time.time() < end and process.poll() is None:
        time.sleep(0.1)
    process.terminate()
    if process.wait(LIMIT) != 75 or not lines:
        t.fail(f"exit {process.returncode}, {len(lines)} lines of steps tell of GPUs")
    return lines


def how_busy_gpus_were(runs):
    """NVML replayed: each start's GPUs in run.json and metrics.jsonl, the run's own alone; over starts in the report, weighted by time."""
    nvml = f"{runs.folder}/nvml"
    os.mkdir(nvml)
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../cli/fake_nvidia.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", f"{nvml}/libnvidia-ml.so.1", source], check=True)
    env = {"LD_LIBRARY_PATH": nvml, "FAKE_NVML": nvml, "CUDA_VISIBLE_DEVICES": "1"}

    def replay(**files):
        for name, text in files.items():
            with open(f"{nvml}/{name}", "w") as f:
                f.write(text)

    def figures(gpus):
        return [(g.get("start"), g["index"], g["uuid"], *(g[k] and (g[k]["mean"], g[k]["max"]) for k in
                 ("busy_percent", "memory_busy_percent", "memory_used_bytes") if k in g)) for g in gpus]

    replay(gpu0="1000", gpu1="1000", busy0="11 11", busy1="96 60", used1=str(3 << 30))
    folder, _ = runs.go(2, 0, "", {**env, "EBB_DOUBLE_GPUS": "1"}, ["train.max_steps=10", "train.epochs=100000"])
    first = (0, 1, "GPU-10000000-fake", (96, 96), (60, 60), (3 << 30, 3 << 30))
    if figures(t.record(folder)["energy"]["gpus"]) != [first]:
        t.fail(f"one start: {t.record(folder)['energy']['gpus']}")
    replay(busy1="36 20")
    os.unlink(f"{nvml}/used1")
    lines = until_the_meter_was_read(folder, {**env, "EBB_DOUBLE_GPUS": "1"})
    if any(abs(m["gpu_busy_seconds"] - 0.36 * m["gpu_seconds"]) > 1e-6 for m in lines):
        t.fail(f"lines of steps: {lines[:3]}")
    gpus = t.record(folder)["energy"]["gpus"]
    if figures(gpus) != [first, (1, 1, "GPU-10000000-fake", (36, 36), (20, 20))]:
        t.fail(f"two starts: {gpus}")
    one, two = (g["busy_percent"]["seconds"] for g in gpus)
    told, = json.loads(t.run(["report", folder, "--json"]).stdout)["energy"]["gpus"]
    mean = (96 * one + 36 * two) / (one + two)
    if abs(told["busy_percent"]["mean"] - mean) > 1e-6 or told["busy_percent"]["max"] != 96 or told["memory_used_bytes"]["max"] != 3 << 30:
        t.fail(f"the report: {told}, wanted a mean of {mean}")
    line = f"GPU 1 of {told['host']}, Test GPU: {mean:.1f} % busy, 96 at most; memory .* 3 of 80 GiB used at most"
    if not re.search(line, t.run(["report", folder]).stdout):
        t.fail(f"{line} is not in {t.run(['report', folder]).stdout}")
    t.run(["report", folder, "--html"])
    with open(f"{folder}/report.html") as f:
        if f">{mean:.1f} %</td>" not in f.read():
            t.fail("report.html does not tell how busy the GPU was")
    if "gpus" in t.record(runs.go(0, 0, "", env, ["train.backend=cpu"])[0])["energy"]:
        t.fail("a run on the CPU has no GPUs")


CASES = [no_gpu, old_driver, no_driver, nonsense_in_visible_devices, too_little_memory, lanes_come_one_by_one_where_memory_is_short,
         as_many_streams_as_cores_but_four_at_most, which_gpu, one_rank_a_gpu, precision, copies_ahead,
         a_dense_step_waits_for_the_device_once, a_sparse_step_waits_as_often_however_many_lanes_there_are, weights_are_rounded_to_bf16_once_a_step, passes_are_replayed_as_graphs, mixed_kinds, lost_gpu, nccl_fails,
         nccl_is_missing, how_busy_gpus_were]


def main():
    with tempfile.TemporaryDirectory(prefix="ebb-gpu-") as folder:
        runs = Runs(folder)
        for case in CASES:
            if len(sys.argv) < 2 or case.__name__ in sys.argv[1:]:
                start = time.time()
                case(runs)
                print(f"ok {case.__name__} {time.time() - start:.1f} s", flush=True)
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
