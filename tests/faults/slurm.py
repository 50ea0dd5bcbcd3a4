#!/usr/bin/env python3
"""The job scripts of cluster/slurm on a real Slurm of two nodes: signalled, requeued, resumed, and the same model at the end.

Usage: slurm.py srun|mpirun"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbslurm
import ebbtest as t

SCRIPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../cluster/slurm")
RUN = """
data: {{train: {folder}/data, block_rows: 16, window_blocks: 4, memory: 64MiB}}
lanes: 6
model: {{layers: [{{linear: {{out: 9}}}}, {{relu: {{}}}}, {{linear: {{}}}}]}}
train: {{epochs: 100000000, batch: 31, threads: 1, optimizer: {{adam: {{lr: 0.01}}}}}}
run: {{dir: {folder}/runs}}
"""
# The run has no end until it has been stopped, so that no machine is too fast to stop it; then it has a near one, so that none is too slow.
MORE_STEPS = 200
WRAPPER = """#!/bin/sh
exec {ebb} "$@" $(cat {folder}/more)
"""


def steps_done(run_dir):
    try:
        return max((m["step"] for m in t.metrics(run_dir) if "step" in m), default=0)
    except (OSError, ValueError):
        return 0


def make_ebb(folder):
    """An ebb in PATH, as where it is installed, with more options as the test goes on."""
    os.mkdir(f"{folder}/bin")
    with open(f"{folder}/bin/ebb", "w") as f:
        f.write(WRAPPER.format(ebb=os.path.abspath(t.EBB), folder=folder))
    os.chmod(f"{folder}/bin/ebb", 0o755)
    more_options(folder, "")


def more_options(folder, text):
    with open(f"{folder}/more.new", "w") as f:
        f.write(text)
    os.rename(f"{folder}/more.new", f"{folder}/more")


def requeued_once_to_the_same_model(cluster, folder, launcher):
    make_ebb(folder)
    # One rank on each node.
    env = {"PATH": f"{folder}/bin:{ebbslurm.PATH}", "EBB_RUN_DIR": f"{folder}/runs",
           "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "HWLOC_COMPONENTS": "-gl",
           "ASAN_OPTIONS": "detect_leaks=0:" + os.environ.get("ASAN_OPTIONS", ""),  # as in support/mpirun
           "OMPI_MCA_hwloc_base_binding_policy": "none", "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
    submitted = cluster.command("sbatch", "--parsable", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", f"--output={folder}/job.log",
                                f"{SCRIPTS}/{launcher}.sbatch", f"{folder}/run.yaml", env=env, cwd=folder)
    job = submitted.stdout.strip()
    if not job:
        t.fail(f"sbatch: {submitted.stderr}")
    run_dir = f"{folder}/runs/run"

    def ended(*but):
        if cluster.state(job)[0] in {"COMPLETED", "FAILED", "NODE_FAIL", "CANCELLED", "TIMEOUT"} - set(but):
            t.fail(f"the job ended too early: {cluster.state(job)}\n{job_log(folder)}{cluster.logs()}")

    cluster.wait(lambda: ended() or steps_done(run_dir) >= 20, "step 20")
    to_script = ["--batch"] if launcher == "mpirun" else []
    cluster.command("scancel", "--signal=USR1", *to_script, job)
    cluster.wait(lambda: ended() or t.record(run_dir)["outcome"] == "stopped", "checkpoint after the signal")
    stopped = t.newest_step(run_dir)
    end = ["--set", f"train.max_steps={stopped + MORE_STEPS}"]
    more_options(folder, " ".join(end))
    cluster.wait(lambda: ended() or cluster.state(job) == ("PENDING", 1), "requeue")
    # A requeued job waits two minutes; an operator may let it go sooner, but not in the second in which its credential was revoked.
    cluster.command("scontrol", "update", f"JobId={job}", "StartTime=now+3seconds")
    cluster.wait(lambda: ended("COMPLETED") or cluster.state(job)[0] == "COMPLETED", "end of the job")
    got = t.record(run_dir)
    t.run(["train", "-q", f"{folder}/run.yaml", "--set", "run.name=alone", *end])
    want = t.record(f"{folder}/runs/alone")
    for key in ("outcome", "steps", "weights_sha256", "optimizer_sha256"):
        if got[key] != want[key]:
            t.fail(f"{key}: {got[key]} under Slurm, {want[key]} alone\n{job_log(folder)}")
    print(f"{launcher}.sbatch: stopped after step {stopped}, requeued, the same model after {got['steps']}")


def job_log(folder):
    with open(f"{folder}/job.log") as f:
        return "".join(f.readlines()[-20:])


def main():
    launcher = sys.argv[1]
    with ebbslurm.cluster() as (cluster, folder):
        if launcher == "srun" and "pmix" not in cluster.command("srun", "--mpi=list").stderr + cluster.output("srun", "--mpi=list"):
            ebbslurm.skip("this Slurm has no PMIx")
        t.sparse_data(f"{folder}/rows.svm", 700, 500, 6, 3, 5)
        t.run(["pack", "-q", f"{folder}/rows.svm", f"{folder}/data"])
        with open(f"{folder}/run.yaml", "w") as f:
            f.write(RUN.format(folder=folder))
        requeued_once_to_the_same_model(cluster, folder, launcher)


main()
