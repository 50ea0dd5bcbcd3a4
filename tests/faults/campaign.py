#!/usr/bin/env python3
"""Campaigns against supervised runs, on a sparse and a dense model in turns: the model must be the undisturbed run's, bit for bit.

kills:N      N times `kill -9` of a random rank at a random moment (starting, resuming, stepping, writing checkpoints), each time going on
             with a random number of ranks from 1 to 8
hurts:N      N times SIGKILL, SIGSTOP or a memory limit for one rank: the run goes on within 15 s, and nothing is left in the end
schedules:N  N runs with random schedules of kills, resizes to 0 to 8 ranks and pauses
overhead:N   N longer runs with a kill, resize or pause every 60 to 90 s: the time without progress, pauses apart, as a share of the rest; at most
             10 % in the mean

In full: EBB=build/release/apps/ebb campaign.py kills:200 hurts:100 schedules:20 overhead:3 [seed:N]"""
import os
import random
import signal
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import supervise as s
import ebbtest as t

LIMIT = 15


def settings(rng):
    """How often checkpoints are written is no part of the model."""
    return ["--set", f"checkpoint.every_steps={rng.choice([1, 5, 15, 60])}", "-q"]


def kill_one(job, rng, wait):
    """True if a rank was killed; false if the run was over before."""
    deadline = time.time() + wait
    while job.process.poll() is None and time.time() < deadline:
        time.sleep(0.001)
    while job.process.poll() is None:
        ranks = job.ranks()
        if ranks:
            try:
                os.kill(rng.choice(ranks), signal.SIGKILL)
                return True
            except ProcessLookupError:
                continue
    return False


# ---- kills ----

def by_hand(folder, name, kind, rng):
    """The supervisor gives up at once; the next one has another number of ranks."""
    job = s.Supervised(folder, name, kind, rng.randint(1, 8), ["--max-restarts", "0", *settings(rng)])
    killed = kill_one(job, rng, rng.choice([0.3, 1.5]) * rng.random())
    try:
        code = job.process.wait(60)
    except Exception:
        job.fail("hangs")
    if code not in (0, 69) or (code != 0 and not killed):
        job.fail(f"exit code {code}")
    return killed, code == 0


def by_itself(folder, name, kind, rng):
    """The supervisor goes on with those that are left, and is then asked for another number."""
    job = s.Supervised(folder, name, kind, rng.randint(1, 8), ["--max-restarts", "5", *settings(rng)])
    killed = kill_one(job, rng, rng.choice([0.3, 1.5]) * rng.random())
    if rng.random() < 0.5:
        job.scale(rng.randint(1, 8), ok=False)
    try:
        code = job.process.wait(300)
    except Exception:
        job.fail(f"hangs at {job.steps()} steps with {len(job.ranks())} ranks")
    if code != 0:
        job.fail(f"exit code {code}")
    return killed, True


def kills(folder, count, rng):
    done = runs = 0
    while done < count:
        kind, name = ("sparse", "dense")[runs % 2], f"kills-{runs}"
        runs += 1
        for turn in range(6):
            killed, over = (by_itself if turn == 4 else by_hand)(folder, name, kind, rng)
            done += killed
            if over:
                break
        s.Supervised(folder, name, kind, rng.randint(1, 8), ["-q"]).process.wait(300) if not over else None
        job_is_whole(folder, name, kind)
        print(f"# kills {done} of {count}, {runs} runs", flush=True)
    return f"{done} kills in {runs} runs: all models equal"


def job_is_whole(folder, name, kind, steps=s.STEPS):
    got, want = s.fingerprint(f"{folder}/runs/{name}"), s.whole(folder, kind, steps)
    if got != want:
        with open(f"{folder}/{name}.log") as f:
            t.fail(f"{name}: the run differs\n  got  {got}\n  want {want}\n{f.read()[-4000:]}")
    left = s.runs_here(f"{folder}/runs/{name}")
    if left:
        t.fail(f"{name}: left {[s.command_of(p) for p in left]}")


# ---- hurts ----

class Memory:
    """A control group of this machine whose memory can be limited, version 1 or 2; group is None where there is none."""

    def __init__(self):
        self.group, self.killed = None, 0
        for base, limit in ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max"):
            group = f"{base}/ebb-{os.getpid()}"
            try:
                if not os.path.exists(f"{base}/cgroup.procs"):
                    continue
                if limit == "memory.max":
                    with open(f"{base}/cgroup.subtree_control", "w") as f:
                        f.write("+memory")
                os.mkdir(group)
                self.group, self.limit = group, f"{group}/{limit}"
                with open(self.limit, "w") as f:
                    f.write(str(1 << 20))
                return
            except OSError:
                self.close()

    def starve(self, pid):
        """The process gets no more memory: the OOM killer ends it when it needs some. Where it needs none for a while, or there are no
        control groups, it is killed here as the OOM killer does."""
        deadline = time.time() + (3 if self.group else 0)
        if self.group:
            with open(f"{self.group}/cgroup.procs", "w") as f:
                f.write(str(pid))
        while time.time() < deadline:
            if not s.stat(pid) or s.stat(pid)[0] in "ZX":
                self.killed += 1
                return
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)

    def close(self):
        if self.group and os.path.isdir(self.group):
            os.rmdir(self.group)
        self.group = None


def last_start(job):
    try:
        return t.record(job.run_dir)["starts"][-1]["pid"]
    except (OSError, ValueError, IndexError):
        return None


def goes_on(job, start, since):
    """Seconds until the run made a step after its restart, or was over."""
    while time.time() < since + 60:
        if job.process.poll() is not None:
            return time.time() - since
        if last_start(job) not in (None, start) and job.steps() > 0:
            return time.time() - since
        time.sleep(0.01)
    job.fail("does not go on")


def hurts(folder, count, rng):
    memory, slowest, kinds = Memory(), {}, ["kill", "stop", "memory"]
    for i in range(count):
        what, kind = kinds[i % 3], ("sparse", "dense")[i % 2]
        job = s.Supervised(folder, f"hurt-{i}", kind, rng.randint(1, 8),
                           [*settings(rng), "--set", "train.max_steps=1000000000", "--set", "train.epochs=100000000"])
        if rng.random() < (0.3 if what == "memory" else 0.8):
            job.wait_step(rng.randint(1, 200))
        else:
            job.wait_until(job.ranks, "its ranks")
        ranks, start = job.ranks(), last_start(job)
        victim, since = rng.choice(ranks), time.time()
        if what == "memory":
            deaths = len(job.text().split("restart "))
            memory.starve(victim)
            since, start = time.time(), last_start(job) if len(job.text().split("restart ")) == deaths else start
        else:
            os.kill(victim, signal.SIGKILL if what == "kill" else signal.SIGSTOP)
        seconds = goes_on(job, start, since)
        slowest[what] = max(slowest.get(what, 0), seconds)
        if seconds > LIMIT:
            job.fail(f"{what}: went on after {seconds:.1f} s")
        job.process.send_signal(signal.SIGTERM)
        job.end(75, 30)
        print(f"# hurts {i + 1} of {count}: {what} of one of {len(ranks)}, went on after {seconds:.1f} s", flush=True)
    memory.close()
    return f"{count} hurts, slowest " + ", ".join(f"{k} {v:.1f} s" for k, v in slowest.items()) + f"; {memory.killed} of the memory ones by the kernel's OOM killer"


# ---- schedules ----

def event(job, rng, hold):
    """One random event; seconds of it that the run was paused on purpose."""
    what = rng.choice(["kill", "resize", "resize", "hold", "pause"])
    if what == "kill":
        kill_one(job, rng, 0)
    elif what == "resize":
        job.scale(rng.randint(1, 8), ok=False)
    elif what == "hold":
        if job.scale(0, ok=False).returncode == 0:
            time.sleep(hold)
            job.scale(rng.randint(1, 8), ok=False)
            return what, hold
    else:
        job.process.send_signal(signal.SIGTERM)
    return what, 0


def schedules(folder, count, rng):
    events = 0
    for i in range(count):
        kind, name = ("sparse", "dense")[i % 2], f"schedule-{i}"
        code, told = 75, []
        while code == 75:
            job = s.Supervised(folder, name, kind, rng.randint(1, 8), settings(rng))
            while job.process.poll() is None:
                time.sleep(rng.random() * 1.5)
                if job.process.poll() is None and len(told) < 10:
                    told.append(event(job, rng, 0.2)[0])
            code = job.process.wait()
        if code != 0:
            job.fail(f"exit code {code}")
        job_is_whole(folder, name, kind)
        events += len(told)
        print(f"# schedule {i + 1} of {count}: {' '.join(told)}", flush=True)
    return f"{count} schedules with {events} events: all models equal"


class Clock(threading.Thread):
    """Time without progress: whenever no step was reached for a third of a second that was not reached before, all of that time."""

    def __init__(self, job):
        super().__init__(daemon=True)
        self.job, self.lost, self.peak = job, 0.0, 0
        self.start()

    def highest(self):
        try:
            with open(f"{self.job.run_dir}/metrics.jsonl", "rb") as f:
                f.seek(max(0, os.fstat(f.fileno()).st_size - 2000))
                words = f.read().split(b'"step":')
                return int(words[-1].split(b",")[0].split(b"}")[0]) if len(words) > 1 else 0
        except (OSError, ValueError):
            return 0

    def run(self):
        since = 0.0
        while self.job.process.poll() is None:
            step = self.highest()
            if step > self.peak:
                now = time.time()
                self.lost += now - since if since and now - since > 1 / 3 else 0
                self.peak, since = step, now
            time.sleep(0.01)


def overhead(folder, count, rng):
    """Ranks 1 and 2, so that the machine's cores are no matter."""
    shares, steps = [], int(os.environ.get("EBB_OVERHEAD_STEPS", "400000"))
    for i in range(count):
        kind, name = ("sparse", "dense")[i % 2], f"overhead-{i}"
        begin = time.time()
        job = s.Supervised(folder, name, kind, 2, ["-q", "--set", f"train.max_steps={steps}", "--set", "train.epochs=100000000", "--set", "checkpoint.every_steps=500"])
        clock, held, told = Clock(job), 0.0, []
        while job.process.poll() is None:
            until = time.time() + 60 + 30 * rng.random()
            while job.process.poll() is None and time.time() < until:
                time.sleep(0.05)
            if job.process.poll() is not None or clock.peak > steps * 0.95:
                continue
            what = ("kill", "resize", "hold")[len(told) % 3]
            if what == "kill":
                kill_one(job, rng, 0)
            elif what == "resize":
                job.scale(1 + len(job.ranks()) % 2, ok=False)
            elif job.scale(0, ok=False).returncode == 0:
                time.sleep(2)
                held += 2
                job.scale(2, ok=False)
            told.append(what)
        if job.process.wait() != 0:
            job.fail(f"exit code {job.process.returncode}")
        total = time.time() - begin - held
        lost = max(0.0, clock.lost - held)
        shares.append(lost / (total - lost))
        job_is_whole(folder, name, kind, steps)
        print(f"# overhead {i + 1} of {count}: {total:.0f} s, of them {lost:.1f} s without progress by {' '.join(told)}: {100 * shares[-1]:.1f} %", flush=True)
    mean = sum(shares) / len(shares)
    if mean > 0.1:
        t.fail(f"overhead of {100 * mean:.1f} % in the mean")
    return f"overhead {100 * mean:.1f} % in the mean of {count} runs"


def main():
    campaigns = {"kills": kills, "hurts": hurts, "schedules": schedules, "overhead": overhead}
    wanted = [a.split(":") for a in sys.argv[1:]]
    seed = next((int(n) for name, n in wanted if name == "seed"), int(time.time()))
    print(f"# seed:{seed}", flush=True)
    told = []
    with tempfile.TemporaryDirectory(prefix="ebb-campaign-") as folder:
        s.make_data(folder)
        for name, n in wanted:
            if name != "seed":
                start = time.time()
                told.append(f"{campaigns[name](folder, int(n), random.Random(seed))}, {time.time() - start:.0f} s")
                print("ok", told[-1], flush=True)


if __name__ == "__main__":
    main()
