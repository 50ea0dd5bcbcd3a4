#!/usr/bin/env python3
"""The agent is killed by SIGKILL at random moments, again and again, while jobs start, run, are frozen, thawed, paused by
checkpoint and end. No job is lost, none runs twice, and nothing is left behind.

    agent.py [kills:6] [keepers:2] [seed:1]       in full: agent.py kills:100 keepers:20
"""
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbtest
from ebbjobs import OVER, Queue, wait_for, write_intensities

HOUR = 3600.0
RATE = 3600.0  # an hour a second

# Begins once, works for a while, ends once: each is a line in a file, written in one go.
COMMAND = 'echo begun >>"$0"; for i in 1 2 3 4 5; do sleep "$1"; done; echo ended >>"$0"'
# The same in steps that survive SIGTERM: exit 75, and on from there.
STEPS = ('trap "echo paused >>$0; exit 75" TERM; echo begun >>"$0"; n=$(grep -c step "$0");'
         'while [ $n -lt 8 ]; do sleep 0.1; n=$((n+1)); echo step $n >>"$0"; done; echo ended >>"$0"')


def lines(path):
    if not os.path.exists(path):
        return []
    with open(path) as f:
        return f.read().splitlines()


class Campaign:
    def __init__(self, folder, rng):
        self.folder, self.rng = folder, rng
        begin = 1700000000 // 3600 * 3600
        write_intensities(f"{folder}/grid.csv", begin, [400 if h % 2 else 100 for h in range(24 * 90)])
        self.queue = Queue(folder, begin, RATE, {"EBB_CARBON_SOURCE": "file", "EBB_CARBON_FILE": f"{folder}/grid.csv"})
        self.kinds = {}

    def path(self, name):
        return f"{self.folder}/{name}"

    def submit(self, n):
        for _ in range(n):
            kind = self.rng.choice(["plain", "plain", "frozen", "steps"])
            name = f"{kind}{len(self.kinds)}"
            after = []
            if self.kinds and self.rng.random() < 0.2:
                after = ["--after", str(self.rng.choice(list(self.kinds)))]
            common = ["--name", name, "--restart-time", "0", *after]
            work = ["sh", "-c", COMMAND, self.path(name), f"{self.rng.uniform(0.02, 0.2):.3f}"]
            if kind == "plain":
                job = self.queue.submit(*common, "--", *work)
            elif kind == "frozen":
                job = self.queue.submit(*common, "--policy", "pause", "--hours", "1", "--deadline", "30d", "--", *work)
            else:
                job = self.queue.submit(*common, "--policy", "pause", "--hours", "1", "--deadline", "30d",
                                        "--pause-by", "checkpoint", "--", "sh", "-c", STEPS, self.path(name))
            self.kinds[job] = (kind, name)

    def kill_agents(self, kills):
        for k in range(kills):
            if k % 5 == 0:
                self.submit(6)
            agent = self.queue.agent("--slots", "4")
            time.sleep(self.rng.choice([0.02, 0.2, 0.6, 1.2]) * self.rng.random() + (0.15 if k % 3 else 0))
            agent.send_signal(signal.SIGKILL)
            agent.wait()
            agent.stdout.close()

    def check(self):
        said = self.queue.until_idle("--slots", "4")
        jobs = self.queue.jobs()
        if sorted(jobs) != sorted(self.kinds):
            ebbtest.fail(f"submitted {sorted(self.kinds)}, in the queue {sorted(jobs)}")
        for job, (kind, name) in self.kinds.items():
            done = lines(self.path(name))
            state = jobs[job]["state"]
            if state != "done":
                ebbtest.fail(f"job {job} {name} is {state} ({jobs[job]['reason']}), not done: {done}\n{said}")
            if done.count("ended") != 1 or (kind != "steps" and done.count("begun") != 1):
                ebbtest.fail(f"job {job} {name} has run {done.count('begun')} times, ended {done.count('ended')}: {done}")
            if kind == "steps" and [d for d in done if d.startswith("step")] != [f"step {i}" for i in range(1, 9)]:
                ebbtest.fail(f"job {job} {name}: steps are lost or doubled: {done}")
        if self.queue.processes():
            ebbtest.fail(f"left behind: {self.queue.processes()}")
        return jobs


def kill_keepers(folder, rng, n):
    """Keeper and agent are killed together, as by a machine that goes down: what may run again does, all else is given up,
    and what is left of the processes is ended."""
    queue = Queue(folder)
    rerun, once = [], []
    for i in range(n):
        work = ["sh", "-c", 'echo begun >>"$0"; sleep 600 & sleep 0.2; wait', f"{folder}/k{i}"]
        first = ["sh", "-c", 'echo begun >>"$0"; [ $(wc -l <"$0") -gt 1 ] || sleep 600', f"{folder}/r{i}"]
        once.append(queue.submit("--name", f"once{i}", "--", *work))
        rerun.append(queue.submit("--name", f"again{i}", "--rerun", "--", *first))
    agent = queue.agent("--slots", str(2 * n))
    wait_for("jobs to begin", lambda: all(lines(f"{folder}/{k}{i}") for k in "kr" for i in range(n)))
    wait_for("jobs to run", lambda: all(j["state"] == "running" for j in queue.jobs().values()))
    agent.kill()
    agent.wait()
    for job in once + rerun:
        with open(f"{queue.folder}/jobs/{job}/begun-1") as f:
            os.kill(int(f.read().split()[1]), signal.SIGKILL)
    queue.until_idle("--slots", str(2 * n))
    jobs = queue.jobs()
    for i in range(n):
        if jobs[once[i]]["state"] != "failed" or "interrupted" not in jobs[once[i]]["reason"] or len(lines(f"{folder}/k{i}")) != 1:
            ebbtest.fail(f"a command that was interrupted: {jobs[once[i]]}, begun {lines(f'{folder}/k{i}')}")
        if jobs[rerun[i]]["state"] != "done" or len(lines(f"{folder}/r{i}")) != 2:
            ebbtest.fail(f"one that may run again: {jobs[rerun[i]]}, begun {lines(f'{folder}/r{i}')}")
    if queue.processes():
        ebbtest.fail(f"left behind: {queue.processes()}")
    queue.end()


def frozen(pid):
    """By its control group?"""
    with open("/proc/mounts") as f:
        mounts = [words[1] for words in map(str.split, f) if words[2] == "cgroup2"]
    with open(f"/proc/{pid}/cgroup") as f:
        group = [line.strip()[3:] for line in f if line.startswith("0::/")]
    return bool(mounts and group) and "frozen 1" in lines(f"{mounts[0]}{group[0]}/cgroup.events")


def process_states(queue, job):
    """Of the processes of a job that are not its keeper: "T" stopped by a signal, "F" frozen, or what else they do."""
    found = []
    for pid in queue.processes():
        try:
            with open(f"/proc/{pid}/environ", "rb") as f, open(f"/proc/{pid}/stat") as stat:
                if f"EBB_JOB_ID={job}".encode() in f.read().split(b"\0"):
                    found.append("F" if frozen(pid) else stat.read().rpartition(")")[2].split()[0])
        except OSError:
            pass
    return found


# Without control groups, as where none may be made.
UNGROUPED = ["unshare", "--mount", "sh", "-c", 'umount -a -t cgroup2 && exec "$0" "$@"']


def wishes(folder, under=()):
    """Held, a command stands still with all its processes, until it is released; cancelled, nothing is left of it, also
    where it does not listen."""
    queue = Queue(folder)
    still = {"T"} if under else {"T", "F"}
    job = queue.submit("--name", "wished", "--", "sh", "-c", "sleep 600 & setsid sleep 600 & wait")
    other = queue.submit("--name", "other", "--gpus", "1", "--", "sh", "-c", 'echo $CUDA_VISIBLE_DEVICES; sleep 600')
    queue.submit("--name", "third", "--gpus", "1", "--", "true")
    try:
        queue.agent("--slots", "3", "--gpus", "1", under=under)
        wait_for("jobs to run", lambda: [queue.jobs()[j]["state"] for j in (job, other)] == ["running"] * 2)
        wait_for("its processes", lambda: len(process_states(queue, job)) == 3)
        wait_for("the third's reason", lambda: "waits for GPUs" in queue.jobs()[3]["reason"])
        queue.ebb("hold", "wished")
        wait_for("the job to be held", lambda: queue.jobs()[job]["state"] == "held")
        wait_for("all to stand still", lambda: len(process_states(queue, job)) == 3 and set(process_states(queue, job)) <= still)
        queue.ebb("release", "wished")
        wait_for("it to go on", lambda: queue.jobs()[job]["state"] == "running" and not still & set(process_states(queue, job)))
        queue.ebb("hold", "wished")
        wait_for("the job to be held", lambda: queue.jobs()[job]["state"] == "held")
        queue.ebb("cancel", "wished", "other")
        wait_for("both to be cancelled", lambda: [queue.jobs()[j]["state"] for j in (job, other)] == ["cancelled"] * 2)
        wait_for("the third", lambda: queue.jobs()[3]["state"] == "done")
        if process_states(queue, job) or process_states(queue, other):
            ebbtest.fail("a cancelled job has processes")
        if queue.ebb("logs", "other").stdout.strip() != "0":
            ebbtest.fail("the job did not get its GPU")
    finally:
        queue.end()


def forgotten(folder):
    """A state folder that is removed, or made anew: keepers end with their commands, and leave nothing in what is another's by then."""
    queue = Queue(folder)
    for name in "ab":
        queue.submit("--name", name, "--", "sh", "-c", 'echo begun >>"$0"; while [ ! -e "$1" ]; do sleep 0.05; done', f"{folder}/{name}",
                     f"{folder}/go")
    agent = queue.agent("--slots", "2")
    wait_for("the jobs to begin", lambda: lines(f"{folder}/a") and lines(f"{folder}/b"))
    agent.kill()
    agent.wait()
    shutil.rmtree(queue.folder)
    os.makedirs(f"{queue.folder}/jobs/2")
    with open(f"{folder}/go", "w"):
        pass
    wait_for("the keepers to end", lambda: not queue.processes(), timeout=30)
    if os.listdir(f"{queue.folder}/jobs/2"):
        ebbtest.fail(f"written into another's folder: {os.listdir(f'{queue.folder}/jobs/2')}")
    queue.end()


def main():
    options = {"kills": 6, "keepers": 2, "seed": 1}
    for word in sys.argv[1:]:
        key, _, value = word.partition(":")
        options[key] = int(value)
    rng = random.Random(options["seed"])
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(folder, rng)
        try:
            campaign.kill_agents(options["kills"])
            jobs = campaign.check()
        finally:
            campaign.queue.end()
    pauses = sum(j["pauses"] for j in jobs.values())
    print(f"{options['kills']} agents killed, {len(jobs)} jobs done, each once; {pauses} pauses, "
          f"{sum(j['starts'] for j in jobs.values())} starts")
    for under in [(), UNGROUPED] if subprocess.run([*UNGROUPED, "true"], capture_output=True).returncode == 0 else [()]:
        with tempfile.TemporaryDirectory() as folder:
            wishes(folder, under)
    with tempfile.TemporaryDirectory() as folder:
        forgotten(folder)
    if options["keepers"]:
        with tempfile.TemporaryDirectory() as folder:
            kill_keepers(folder, rng, options["keepers"])
        print(f"{2 * options['keepers']} keepers killed with their agent: none run twice but those that may")


if __name__ == "__main__":
    main()
