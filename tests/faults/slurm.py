#!/usr/bin/env python3
"""The job scripts of cluster/slurm on a real Slurm of two nodes: signalled, requeued, resumed, and the same model at the end.

Usage: slurm.py srun|mpirun"""
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbslurm
import ebbtest as t

SCRIPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../cluster/slurm")
RUN = """
data: {{train: {folder}/data, block_rows: 16, window_blocks: 4, memory: 64MiB}}
lanes: 6
model: {{layers: [{{linear: {{out: 9}}}}, {{relu: {{}}}}, {{linear: {{}}}}]}}
train: {{epochs: 100000, max_steps: {steps}, batch: 31, threads: 1, optimizer: {{adam: {{lr: 0.01}}}}}}
run: {{dir: {folder}/runs}}
"""


def steps_done(run_dir):
    try:
        return max((m["step"] for m in t.metrics(run_dir) if "step" in m), default=0)
    except (OSError, ValueError):
        return 0


def requeued_once_to_the_same_model(cluster, folder, launcher):
    t.run(["train", "-q", f"{folder}/run.yaml", "--set", "run.name=alone"])
    want = t.record(f"{folder}/runs/alone")
    # One rank on each node. Ebb is found by PATH, as where it is installed.
    env = {"PATH": f"{os.path.dirname(os.path.abspath(t.EBB))}:{ebbslurm.PATH}", "EBB_RUN_DIR": f"{folder}/runs",
           "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "HWLOC_COMPONENTS": "-gl",
           "ASAN_OPTIONS": "detect_leaks=0:" + os.environ.get("ASAN_OPTIONS", ""),  # as in support/mpirun
           "OMPI_MCA_hwloc_base_binding_policy": "none", "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
    submitted = cluster.command("sbatch", "--parsable", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", f"--output={folder}/job.log",
                                f"{SCRIPTS}/{launcher}.sbatch", f"{folder}/run.yaml", env=env, cwd=folder)
    job = submitted.stdout.strip()
    if not job:
        t.fail(f"sbatch: {submitted.stderr}")
    run_dir = f"{folder}/runs/run"

    def ended_early():
        if cluster.state(job)[0] in ("COMPLETED", "FAILED", "NODE_FAIL", "CANCELLED"):
            t.fail(f"the job ended before it was signalled: {cluster.state(job)}\n{job_log(folder)}{cluster.logs()}")

    cluster.wait(lambda: ended_early() or steps_done(run_dir) >= 20, "step 20")
    to_script = ["--batch"] if launcher == "mpirun" else []
    cluster.command("scancel", "--signal=USR1", *to_script, job)
    cluster.wait(lambda: t.record(run_dir)["outcome"] == "stopped", "checkpoint after the signal")
    stopped = steps_done(run_dir)
    if not 20 <= stopped < want["steps"]:
        t.fail(f"stopped after step {stopped}")
    cluster.wait(lambda: cluster.state(job) == ("PENDING", 1), "requeue")
    # A requeued job waits two minutes; an operator may let it go sooner, but not in the second in which its credential was revoked.
    cluster.command("scontrol", "update", f"JobId={job}", "StartTime=now+3seconds")
    cluster.wait(lambda: cluster.state(job)[0] in ("COMPLETED", "FAILED"), "end of the job", 180)
    got = t.record(run_dir)
    if cluster.state(job)[0] != "COMPLETED" or got["outcome"] != "finished":
        t.fail(f"the resumed job ended as {cluster.state(job)}, {got['outcome']}\n{job_log(folder)}{cluster.logs()}")
    for key in ("steps", "weights_sha256", "optimizer_sha256"):
        if got[key] != want[key]:
            t.fail(f"{key}: {got[key]} under Slurm, {want[key]} alone")
    print(f"{launcher}.sbatch: stopped after step {stopped}, requeued, the same model after {got['steps']}")


def job_log(folder):
    with open(f"{folder}/job.log") as f:
        return "".join(f.readlines()[-20:])


def main():
    launcher = sys.argv[1]
    why = ebbslurm.missing()
    if why:
        print("SKIPPED: no Slurm here,", why)
        sys.exit(t.SKIP)
    with tempfile.TemporaryDirectory(prefix="ebb-slurm-") as folder:
        os.chmod(folder, 0o755)
        t.sparse_data(f"{folder}/rows.svm", 700, 500, 6, 3, 5)
        t.run(["pack", "-q", f"{folder}/rows.svm", f"{folder}/data"])
        with open(f"{folder}/run.yaml", "w") as f:
            f.write(RUN.format(folder=folder, steps=3000))
        os.mkdir(f"{folder}/slurm")
        try:
            with ebbslurm.Cluster(f"{folder}/slurm") as cluster:
                if launcher == "srun" and "pmix" not in cluster.command("srun", "--mpi=list").stderr + cluster.output("srun", "--mpi=list"):
                    print("SKIPPED: this Slurm has no PMIx")
                    sys.exit(t.SKIP)
                requeued_once_to_the_same_model(cluster, folder, launcher)
        except ebbslurm.Unavailable as why:
            print(f"SKIPPED: Slurm does not come up here: {why}")
            sys.exit(t.SKIP)


main()
