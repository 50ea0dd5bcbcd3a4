#!/usr/bin/env python3
"""Jobs handed to a real Slurm: `ebb submit --slurm`, and the controller killed at random moments.

Usage: slurm_jobs.py [CASE ...]; cases: elastic wishes array kills:ROUNDS (kills:20 in full)"""
import json
import os
import random
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clean_hours
import ebbslurm
import ebbtest as t
import supervise as s

BEGIN = 1654041600  # 2022-06-01T00:00Z: where the intensities begin


class Jobs:
    """A queue whose jobs Slurm carries out, on a clock that runs fast."""

    def __init__(self, cluster, folder, hour=None):
        self.cluster, self.folder = cluster, folder
        self.env = {**cluster.env, **s.ENV, "EBB_STATE_DIR": f"{folder}/state", "EBB_CARBON_CACHE": f"{folder}/cache",
                    "PATH": f"{os.path.dirname(os.path.abspath(t.EBB))}:{ebbslurm.PATH}", "OMPI_MCA_rmaps_base_oversubscribe": "1",
                    "OMPI_MCA_hwloc_base_binding_policy": "none"}
        if hour:
            self.env["EBB_CLOCK"] = f"{BEGIN}:{time.time():.3f}:{3600 / hour}"

    def ebb(self, *args, ok=True):
        return t.run(args, ok=ok, env=self.env, cwd=self.folder)

    def submit(self, *args):
        return int(self.ebb("submit", "--slurm", *args).stdout.split()[1])

    def show(self, job=None):
        jobs = json.loads(self.ebb("queue", "--all", "--json").stdout)
        return {j["id"]: j for j in jobs} if job is None else next(j for j in jobs if j["id"] == job)

    def wait(self, job, *states):
        def reached():
            now = self.show(job)["state"]
            if now in ("done", "failed", "cancelled") and now not in states:
                t.fail(f"job {job} is {now}, wanted {states}\n{self.show(job)}{self.log(job)}{self.cluster.logs()}")
            return now in states
        self.cluster.wait(reached, f"job {job} {states}")

    def log(self, job):
        text = ""
        for name in ("job.sh", "starts", "log"):
            try:
                with open(f"{self.folder}/state/slurm/{job}/{name}") as f:
                    text += f"-- {name}\n" + f.read()[-3000:]
            except OSError:
                pass
        return text


def grid(folder, hours):
    with open(f"{folder}/grid.csv", "w") as f:
        f.write("time,g\n")
        for i, g in enumerate(hours):
            f.write(f"{time.strftime('%Y-%m-%dT%H:%MZ', time.gmtime(BEGIN + 3600 * i))},{g}\n")


# The last part runs until the work is done; here that is in it, or in what is left where starts take long.
PIECES = [(begin, min(hours, 4 if ranks else 3) if k < 7 else hours, ranks) for k, (begin, hours, ranks) in enumerate(clean_hours.PIECES)]
PLANNED, DONE = 33, 25  # hours of one rank, as it is submitted and in truth


def elastic(cluster, folder):
    """A training run in five stretches along hours of a real grid: paused twice and resized twice, with the model of the undisturbed run."""
    trace = t.shared(clean_hours.TRACE)
    if not trace:
        print(f"SKIPPED: no real data {clean_hours.TRACE} here")
        return
    clean_hours.make_data(folder)
    # Where an hour of the plan is too short for this machine to start anything in it, it is made longer.
    if not any(stretches_follow_the_plan(cluster, folder, trace, hour) for hour in (2.5, 7.5, 22.5)):
        t.fail("the parts do not run as planned, however long their hours")


def stretches_follow_the_plan(cluster, folder, trace, hour):
    name = f"clean{hour}"
    clean_hours.write_grid(folder, trace, BEGIN, PIECES)
    steps = clean_hours.write_run(folder, DONE, hour)
    jobs = Jobs(cluster, folder, hour)
    jobs.env["EBB_TEST_LANE_MS"] = str(clean_hours.LANE_MS)
    job = jobs.submit("--file", "grid.csv", "--policy", "elastic", "--ranks", "2", "--ranks-range", "1:2", "--hours", str(PLANNED / 2),
                      "--profile", "profile.json", "--deadline", f"{sum(hours for _, hours, _ in PIECES)}h", "--restart-time", "30m",
                      "--name", name, "run.yaml")
    plan = jobs.show(job)["plan"]["stretches"]
    ranks = [p["ranks"] for p in plan]
    if ranks[:5] != [1, 2, 2, 1, 2]:
        t.fail(f"the plan is not what this test wants: {plan}")
    comments = [c for c in cluster.output("squeue", "-h", "-o", "%k|%j").splitlines() if c.endswith(name)]
    if len(comments) != len(plan) or not all("planned 2022-06-0" in c for c in comments):
        t.fail(f"squeue shows {comments}")
    jobs.wait(job, "done")
    with open(f"{folder}/state/slurm/{job}/starts") as f:
        seen = [int(line.split()[4]) for line in f if line.startswith("start")]
    run = f"{folder}/runs/{name}"
    t.run(["train", "run.yaml", "-q", "--set", f"run.name=undisturbed{hour}"], ranks=3, cwd=folder)
    if t.hashes(run) != t.hashes(f"{folder}/runs/undisturbed{hour}") or not all(t.hashes(run)):
        t.fail(f"the run differs: {t.hashes(run)}\n{jobs.log(job)}")
    grams, asap = clean_hours.books(folder, run)
    if seen[:5] != ranks[:5]:
        print(f"ran on {seen}, planned {ranks} with an hour of {hour} s\n{jobs.log(job)}")
        return False
    print(f"elastic: parts on {seen} ranks, the same model after {steps} steps; {grams:.4g} g, {asap:.4g} g had it started at once")
    return True


def wishes(cluster, folder):
    """Deferred to the clean hour, held, released, cancelled; re-planned when the forecast changes; an option that Slurm refuses."""
    os.makedirs(f"{folder}/w", exist_ok=True)
    grid(folder, [500] * 10 + [100] * 2 + [500] * 60)
    jobs = Jobs(cluster, folder)
    jobs.env["EBB_CLOCK"] = f"{BEGIN}:{time.time():.3f}:1"
    job = jobs.submit("--file", "grid.csv", "--policy", "defer", "--hours", "2", "--deadline", "2d", "--name", "late", "--", "true")

    def begins(job):
        ids = jobs.show(job)["slurm"]
        shown = cluster.output("scontrol", "-o", "show", "job", ids)
        fields = dict(word.split("=", 1) for word in shown.split() if "=" in word)
        return ids, time.mktime(time.strptime(fields["StartTime"], "%Y-%m-%dT%H:%M:%S"))

    ids, start = begins(job)
    if not 9.9 * 3600 < start - time.time() < 10.1 * 3600:
        t.fail(f"begins in {start - time.time()} s\n{jobs.show(job)}")
    if "planned time" not in jobs.ebb("why", job).stdout:
        t.fail(jobs.ebb("why", job).stdout)
    grid(folder, [500] * 20 + [100] * 2 + [500] * 50)
    jobs.ebb("slurm")
    again, start = begins(job)
    if again != ids or not 19.9 * 3600 < start - time.time() < 20.1 * 3600:
        t.fail(f"re-planned: {ids} is {again}, begins in {start - time.time()} s")
    grid(folder, [500] * 15 + [100] * 2 + [500] * 55)
    looked_after_by_an_agent(cluster, jobs, lambda: 14.9 * 3600 < begins(job)[1] - time.time() < 15.1 * 3600)
    jobs.ebb("hold", job)
    if jobs.show(job)["state"] != "held" or cluster.output("squeue", "-h", "-o", "%A").strip():
        t.fail(f"held: {jobs.show(job)}")
    jobs.ebb("release", job)
    if jobs.show(job)["state"] != "starting" or begins(job)[0] == ids:
        t.fail(f"released: {jobs.show(job)}")
    jobs.ebb("cancel", job)
    if jobs.show(job)["state"] != "cancelled" or cluster.output("squeue", "-h", "-o", "%A").strip():
        t.fail(f"cancelled: {jobs.show(job)}")
    paused_and_gone_on(cluster, folder, jobs)
    if jobs.ebb("submit", "--slurm", "--after", job, "--", "true", ok=False).returncode != 64:
        t.fail("--after is taken, though Slurm is not told of it")
    refused = jobs.ebb("submit", "--slurm", "--sbatch=--partition=nowhere", "--", "true", ok=False)
    if refused.returncode != 64 or "partition" not in refused.stderr:
        t.fail(f"a partition that is not there: {refused}")
    a_submission_that_is_broken_off_is_kept(folder, jobs)
    job = jobs.submit("--", "sh", "-c", "echo hello; exit 3")
    jobs.wait(job, "failed")
    if jobs.show(job)["exit_code"] != 3 or jobs.ebb("logs", job).stdout != "hello\n":
        t.fail(f"{jobs.show(job)}")
    print("wishes: deferred, planned again, held, released, cancelled; refusals and failures are told")


def paused_and_gone_on(cluster, folder, jobs):
    """A command that may not begin anew, but goes on where it was paused."""
    job = jobs.submit("--pause-by", "checkpoint", "--", "sh", "-c",
                      f'trap "exit 75" USR1 TERM; echo >>{folder}/begun; while :; do sleep 0.1; done')

    def begun(times):
        def reached():
            jobs.wait(job, "running", "starting", "paused")
            return os.path.exists(f"{folder}/begun") and os.path.getsize(f"{folder}/begun") == times
        return reached
    cluster.wait(begun(1), "its first start")
    jobs.ebb("hold", job)
    jobs.wait(job, "held")
    jobs.ebb("release", job)
    cluster.wait(begun(2), "its second start")
    jobs.ebb("cancel", job)


def looked_after_by_an_agent(cluster, jobs, reached):
    agent = subprocess.Popen(t.command(["agent", "-q"]), env={**os.environ, **jobs.env}, stdin=subprocess.DEVNULL, preexec_fn=t.with_us())
    try:
        cluster.wait(reached, "a new plan by the agent")
    finally:
        agent.terminate()
        agent.wait(60)


def a_submission_that_is_broken_off_is_kept(folder, jobs):
    """As when the controller dies while it is asked: whether it has the job is not known."""
    os.makedirs(f"{folder}/fake", exist_ok=True)
    with open(f"{folder}/fake/sbatch", "w") as f:
        f.write("#!/bin/sh\necho 'sbatch: error: Batch job submission failed: Connection reset by peer' >&2\nexit 1\n")
    os.chmod(f"{folder}/fake/sbatch", 0o755)
    real, jobs.env["PATH"] = jobs.env["PATH"], f"{folder}/fake:{jobs.env['PATH']}"
    job = jobs.submit("--", "true")
    jobs.env["PATH"] = real
    jobs.wait(job, "done")


def array(cluster, folder):
    jobs = Jobs(cluster, folder)
    job = jobs.submit("--sbatch=--array=1-4", "--", "sh", "-c", f"echo $SLURM_ARRAY_TASK_ID >>{folder}/elements")
    jobs.wait(job, "done")
    with open(f"{folder}/elements") as f:
        if sorted(f.read().split()) != ["1", "2", "3", "4"]:
            t.fail(f"elements\n{jobs.log(job)}")
    print("array: each element once")


def kills(cluster, folder, rounds):
    """kill -9 of slurmctld while jobs are submitted, wait, run and end: each job ends once, and no two starts of one overlap."""
    jobs = Jobs(cluster, folder)
    rng = random.Random(rounds)
    out = f"{folder}/out"
    os.makedirs(out)
    script = f'echo begin >>{out}/$1; sleep 0.3; echo end >>{out}/$1'
    known = []
    for k in range(rounds):
        for _ in range(rng.randrange(1, 4)):
            name = f"j{len(known)}"
            known.append((jobs.submit("--rerun", "--name", name, "--", "sh", "-c", script, "sh", name), name))
        time.sleep(rng.random() * 1.5)
        cluster.kill("slurmctld")
        if rng.random() < 0.5:  # also into the time without a controller
            name = f"j{len(known)}"
            known.append((jobs.submit("--rerun", "--name", name, "--", "sh", "-c", script, "sh", name), name))
        cluster.wait(lambda: cluster.command("squeue").returncode == 0, "the controller")

    def over():
        states = jobs.show()
        bad = [states[job] for job, _ in known if states[job]["state"] in ("failed", "cancelled")]
        if bad:
            t.fail(f"{bad}\n{jobs.log(bad[0]['id'])}{cluster.logs()}")
        return all(states[job]["state"] == "done" for job, _ in known)
    cluster.wait(over, "the end of all jobs")
    for job, name in known:
        with open(f"{out}/{name}") as f:
            words = f.read().split()
        if words.count("end") != 1 or words[-1] != "end":
            t.fail(f"{name}: {words}\n{jobs.log(job)}")
    print(f"kills: slurmctld killed {rounds} times, {len(known)} jobs, each ended once")


def main():
    for word in sys.argv[1:] or ["wishes", "array", "elastic", "kills:3"]:
        name, _, number = word.partition(":")
        with ebbslurm.cluster() as (cluster, folder):
            globals()[name](cluster, folder, *([int(number)] if number else []))


main()
