#!/usr/bin/env python3
"""`ebb run` in a Slurm allocation of two nodes: restarts after a killed rank, resizes, pauses on Slurm's signal; the same model, nothing left."""
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ebbslurm
import ebbtest as t
import supervise as s

JOB = """#!/bin/sh
exec ebb run -q --launcher "mpirun --quiet --bind-to none --oversubscribe" {folder}/sparse.yaml --name slurm --set train.epochs=100000000 --set train.max_steps=$1
"""


def in_an_allocation(cluster, folder):
    env = {"PATH": f"{os.path.dirname(os.path.abspath(t.EBB))}:{ebbslurm.PATH}", **s.ENV, "OMPI_MCA_hwloc_base_binding_policy": "none"}
    with open(f"{folder}/job.sh", "w") as f:
        f.write(JOB.format(folder=folder))
    run_dir, log = f"{folder}/runs/slurm", f"{folder}/job.log"

    def submit(max_steps):
        submitted = cluster.command("sbatch", "--parsable", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--open-mode=append",
                                    f"--output={log}", f"{folder}/job.sh", str(max_steps), env=env, cwd=folder)
        if not submitted.stdout.strip():
            t.fail(f"sbatch: {submitted.stderr}")
        return submitted.stdout.strip()

    def text():
        with open(log) as f:
            return f.read()

    def ranks():
        return [p for p in s.runs_here(run_dir) if s.command_of(p)[1:2] == ["train"]] + \
            [p for p in s.runs_here(f"{folder}/sparse.yaml") if s.command_of(p)[1:2] == ["train"]]

    def steps_done():
        try:
            return max((m["step"] for m in t.metrics(run_dir) if "step" in m), default=0)
        except (OSError, ValueError):
            return 0

    def over(job):
        return cluster.state(job)[0] in ("COMPLETED", "FAILED", "NODE_FAIL", "CANCELLED")

    def ended_early(job):
        if over(job):
            t.fail(f"the job ended early: {cluster.state(job)}\n{text()}{cluster.logs()}")

    def wait(job, reached, what):
        cluster.wait(lambda: ended_early(job) or reached(), what)

    job = submit(0)  # without end until it is paused, so that no machine is too fast for what happens to it
    wait(job, lambda: steps_done() > 30 and len(ranks()) == 2, "two ranks and step 30")
    if len(t.record(run_dir)["starts"][-1]["hosts"]) < 1:
        t.fail("no hosts in run.json")
    os.kill(ranks()[-1], signal.SIGKILL)
    wait(job, lambda: "restart 1 on 1 rank from step" in text(), "its restart")
    done = t.run(["scale", run_dir, "--ranks", "2"], ok=False)
    if done.returncode != 0:
        t.fail(f"scale: {done.stdout}{done.stderr}{text()}")
    cluster.command("scancel", "--batch", "--signal=TERM", job)
    cluster.wait(lambda: over(job), "the pause")
    if t.record(run_dir)["outcome"] != "stopped" or "paused at step" not in text():
        t.fail(f"not paused: {t.record(run_dir)['outcome']}\n{text()}")
    steps = t.newest_step(run_dir) + 200
    job = submit(steps)
    cluster.wait(lambda: over(job), "the end")
    want = s.whole(folder, "sparse", steps)
    if s.fingerprint(run_dir) != want:
        t.fail(f"the run differs\n  got  {s.fingerprint(run_dir)}\n  want {want}\n{text()}{cluster.logs()}")
    if ranks():
        t.fail(f"left {[s.command_of(p) for p in ranks()]}")
    print("ok: killed, restarted, scaled, paused and resumed under Slurm: the same model")


def processes_on(node):
    """What Slurm runs on a node, its daemon excepted."""
    found = []
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/environ", "rb") as f:
                if name.isdigit() and f"SLURMD_NODENAME={node}".encode() in f.read().split(b"\0"):
                    found.append(int(name))
        except OSError:
            pass
    return found


def a_dead_node_is_left_out(cluster, folder):
    """The second node dies with all that runs on it, while Slurm still takes it for alive: the run goes on without it."""
    env = {"PATH": f"{os.path.dirname(os.path.abspath(t.EBB))}:{ebbslurm.PATH}", **s.ENV, "OMPI_MCA_hwloc_base_binding_policy": "none"}
    log, run_dir = f"{folder}/dead.log", f"{folder}/runs/dead"
    job = cluster.command("sbatch", "--parsable", "--no-kill", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", f"--output={log}",
                          "--wrap", f"exec ebb run -q {folder}/sparse.yaml --name dead --set train.epochs=100000000 --set train.max_steps=0",
                          env=env, cwd=folder).stdout.strip()

    def text():
        with open(log) as f:
            return f.read()

    def wait(reached, what):
        def look():
            if cluster.state(job)[0] in ("COMPLETED", "FAILED", "NODE_FAIL", "CANCELLED"):
                t.fail(f"the job ended before {what}: {cluster.state(job)}\n{text()}{cluster.logs()}")
            return reached()
        cluster.wait(look, what)

    wait(lambda: os.path.exists(log) and t.newest_step(run_dir) > 0, "a checkpoint on two nodes")
    with open(f"{cluster.folder}/n2.pid") as f:
        daemon = int(f.read())
    os.kill(daemon, signal.SIGSTOP)
    try:
        for pid in processes_on("n2"):
            os.kill(pid, signal.SIGKILL)
        wait(lambda: "restart 1 on 1 rank" in text(), "its restart")
        if "does not answer: n2" not in text():
            t.fail(f"the dead node is not named\n{text()}")
        before = t.newest_step(run_dir)
        wait(lambda: t.newest_step(run_dir) > before + 30, "steps without the dead node")
    finally:
        os.kill(daemon, signal.SIGCONT)
    cluster.command("scancel", "--batch", "--signal=TERM", job)
    cluster.wait(lambda: cluster.state(job)[0] in ("COMPLETED", "FAILED", "CANCELLED"), "the pause")
    print("ok: a dead node is left out of the next start")


def main():
    with ebbslurm.cluster() as (cluster, folder):
        s.make_data(folder)
        in_an_allocation(cluster, folder)
        a_dead_node_is_left_out(cluster, folder)


main()
