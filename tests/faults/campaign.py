#!/usr/bin/env python3
"""Campaigns against supervised runs, on a sparse and a dense model in turns: the model must be the undisturbed run's, bit for bit.

kills:N      N times `kill -9` of a random rank at a random moment (starting, resuming, stepping, writing checkpoints), each time going on
             with a random number of ranks from 1 to 8
hurts:N      N times SIGKILL, SIGSTOP or a memory limit for one rank: the run goes on within 15 s, and nothing is left in the end
schedules:N  N runs with ten random kills, resizes to 0 to 8 ranks and pauses each
overhead:N   N longer runs with a kill, a resize and a pause, one every 60 to 90 s: the time from the last step before each to the first that is new,
             pauses apart, as a share of the rest; wanted are 10 % at most

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

LIMIT = 15   # seconds within which a run goes on, as measured; a busy machine may take longer, and no test fails by it
STEPS = 800  # of a run that is to be killed or resized on its way


def settings(rng, steps=STEPS):
    """How often checkpoints are written is no part of the model."""
    return ["--set", f"train.max_steps={steps}", "--set", f"checkpoint.every_steps={rng.choice([1, 5, 15, 60])}", "-q"]


def last_start(job):
    try:
        return t.record(job.run_dir)["starts"][-1]["pid"]
    except (OSError, ValueError, IndexError):
        return None


# ---- kills ----

def is_writing(job):
    try:
        return any(".tmp" in name for name in os.listdir(f"{job.run_dir}/checkpoints"))
    except OSError:
        return False


def moment(job, rng):
    """A random moment: its name, and a function that says when it has come."""
    before, newest = last_start(job), t.newest_step(job.run_dir)
    what = rng.choice(["starting", "stepping", "writing"])
    if what == "starting":
        until = []

        def reached():
            if not until and job.ranks():
                until.append(time.time() + 0.5 * rng.random())
            return until and time.time() > until[0]
    elif what == "stepping":
        step = newest + rng.randint(1, STEPS // 4)

        def reached():
            return last_start(job) not in (None, before) and job.steps() >= step
    else:
        number = rng.randint(1, 5)
        seen = [False]

        def reached():
            nonlocal number
            number -= seen[0] < is_writing(job)
            seen[0] = is_writing(job)
            return number <= 0
    return what, reached


def kill_one(job, rng, reached):
    """True if a rank was killed; false if the run was over before."""
    while job.process.poll() is None and not reached():
        time.sleep(0.0005)
    while job.process.poll() is None:
        ranks = job.ranks()
        if ranks:
            try:
                os.kill(rng.choice(ranks), signal.SIGKILL)
                return True
            except ProcessLookupError:
                continue
    return False


def by_hand(folder, name, kind, rng):
    """The supervisor gives up at once; the next one has another number of ranks."""
    job = s.Supervised(folder, name, kind, rng.randint(1, 8), ["--max-restarts", "0", *settings(rng)])
    what, reached = moment(job, rng)
    killed = kill_one(job, rng, reached)
    code = job.wait_end()
    if code not in (0, 69) or (code != 0 and not killed):
        job.fail(f"exit code {code}")
    return what if killed else None, code == 0


def by_itself(folder, name, kind, rng):
    """The supervisor goes on with those that are left, and is then asked for another number."""
    job = s.Supervised(folder, name, kind, rng.randint(1, 8), ["--max-restarts", "5", *settings(rng)])
    what, reached = moment(job, rng)
    killed = kill_one(job, rng, reached)
    if rng.random() < 0.5:
        job.scale(rng.randint(1, 8), ok=False)
    job.end(0)
    return what if killed else None, True


def kills(folder, count, rng):
    done, runs, moments = 0, 0, {}
    while done < count:
        kind, name, over = ("sparse", "dense")[runs % 2], f"kills-{runs}", False
        runs += 1
        for turn in range(6):
            what, over = (by_itself if turn == 4 else by_hand)(folder, name, kind, rng)
            done += what is not None
            moments[what] = moments.get(what, 0) + 1
            if over:
                break
        if not over:
            s.Supervised(folder, name, kind, rng.randint(1, 8), settings(rng)).end(0)
        job_is_whole(folder, name, kind)
        print(f"# kills {done} of {count}, {runs} runs", flush=True)
    moments.pop(None, None)
    return f"{done} kills in {runs} runs ({', '.join(f'{n} {what}' for what, n in sorted(moments.items()))}): all models equal"


def job_is_whole(folder, name, kind, steps=STEPS):
    got, want = s.fingerprint(f"{folder}/runs/{name}"), s.whole(folder, kind, steps)
    if got != want:
        with open(f"{folder}/{name}.log") as f:
            t.fail(f"{name}: the run differs\n  got  {got}\n  want {want}\n{f.read()[-4000:]}")
    left = s.runs_of(folder, name)
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
            if not s.lives(pid):
                self.killed += 1
                return
            time.sleep(0.001)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            self.killed += 1

    def close(self):
        if self.group and os.path.isdir(self.group):
            os.rmdir(self.group)
        self.group = None


def goes_on(job, start, since):
    """Seconds until the supervisor took notice, and until the run made a step after its restart: between them, ranks start and read."""
    job.wait_until(lambda: "; restart 1 on " in job.text(), "its restart")
    noticed = time.time() - since
    job.wait_until(lambda: last_start(job) not in (None, start) and job.steps() > 0, "a step after its restart")
    return max(0.0, noticed), time.time() - since


def hurts(folder, count, rng):
    memory, took, kinds, late = Memory(), {}, ["kill", "stop", "memory"], 0
    for i in range(count):
        what, kind = kinds[i % 3], ("sparse", "dense")[i % 2]
        job = s.Supervised(folder, f"hurt-{i}", kind, rng.randint(1, 8), settings(rng, 10 ** 9))
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
        noticed, seconds = goes_on(job, start, since)
        took.setdefault(what, []).append((noticed, seconds))
        if seconds > LIMIT:
            late += 1
            print(f"# hurt-{i} is late\n{job.text()[-3000:]}", flush=True)
        job.pause()
        print(f"# hurts {i + 1} of {count}: {what} of one of {len(ranks)}, noticed after {noticed:.1f} s, went on after {seconds:.1f} s", flush=True)
    memory.close()
    slowest = ", ".join(f"{what} {max(n for n, _ in all_):.1f} s to notice, {max(s for _, s in all_):.1f} s in all" for what, all_ in took.items())
    return f"{count} hurts, {count - late} went on within {LIMIT} s, slowest {slowest}; {memory.killed} of the memory ones by the kernel's OOM killer"


# ---- schedules ----

def event(job, rng, hold):
    """One random event; seconds of it that the run was paused on purpose."""
    what = rng.choice(["kill", "resize", "resize", "hold", "pause"])
    if what == "kill":
        kill_one(job, rng, lambda: True)
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
    """Each run goes on until it has had all its events, and then to an end a few steps further."""
    each, last = 10, 0
    for i in range(count):
        kind, name, told = ("sparse", "dense")[i % 2], f"schedule-{i}", []
        while len(told) < each:
            job = s.Supervised(folder, name, kind, rng.randint(1, 8), ["--max-restarts", str(each), *settings(rng, 10 ** 9)])
            job.wait_until(job.has_begun, "its lock")
            what = None
            while what != "pause" and len(told) < each:
                time.sleep(rng.random() * 1.5)
                what = event(job, rng, 0.2)[0]
                told.append(what)
            if what == "pause":
                job.end(75)
            else:
                job.pause()
        job.goes_to_an_end(rng.randint(1, 8))
        last += t.newest_step(job.run_dir)
        print(f"# schedule {i + 1} of {count}: {' '.join(told)}", flush=True)
    return f"{count} schedules with {each * count} events, {last} steps: all models equal"


class Clock(threading.Thread):
    """Watches for steps that were not reached before: the newest one, and the longest time between two of them."""

    def __init__(self, job):
        super().__init__(daemon=True)
        self.job, self.peak, self.since, self.longest = job, 0, time.time(), 0.0
        self.start()

    def run(self):
        while self.job.process.poll() is None:
            step = self.job.steps()
            if step > self.peak:
                now = time.time()
                self.longest = max(self.longest, now - self.since)
                self.peak, self.since = step, now
            time.sleep(0.005)

    def lost_by(self, act):
        """Seconds that the event takes from the last step before the ranks end to the next one that is new; and when, since the event, the
        ranks were gone, the next ones started, had their record and made their first step."""
        self.longest, start, old, since, times = 0.0, last_start(self.job), set(self.job.ranks()), time.time(), []

        def wait(reached, what):
            self.job.wait_until(lambda: time.sleep(0.02) or reached(), what)
            times.append(time.time() - since)

        act()
        wait(lambda: not old & set(self.job.ranks()), "its ranks' end")
        wait(lambda: self.job.ranks(), "ranks")
        wait(lambda: last_start(self.job) not in (None, start), "its next start")
        peak = self.peak
        wait(lambda: self.peak > peak, "a new step")
        return self.longest, times


def overhead(folder, count, rng):
    """Ranks 1 and 2, so that the machine's cores are no matter."""
    shares, hold = [], 2.0
    for i in range(count):
        kind, name = ("sparse", "dense")[i % 2], f"overhead-{i}"
        job = s.Supervised(folder, name, kind, 2, ["-q", "--set", "checkpoint.every_steps=500"])
        job.wait_step(1)
        clock, begin, held, lost = Clock(job), time.time(), 0.0, []

        def held_for_a_while():
            job.scale(0)
            time.sleep(hold)
            job.scale(2)

        for what in rng.sample(["kill", "resize", "hold"], 3):
            time.sleep(60 + 30 * rng.random())
            if what == "kill":
                seconds, times = clock.lost_by(lambda: kill_one(job, rng, lambda: True))
            elif what == "resize":
                seconds, times = clock.lost_by(lambda: job.scale(1 + len(job.ranks()) % 2))
            else:
                seconds, times = clock.lost_by(held_for_a_while)
                seconds -= hold
                held += hold
            lost.append((what, seconds))
            print("# %s: %.1f s; gone after %.1f, ranks after %.1f, their record after %.1f, a new step after %.1f" % (what, seconds, *times), flush=True)
        total = time.time() - begin - held
        job.pause()
        job.goes_to_an_end()
        seconds = sum(s for _, s in lost)
        shares.append(seconds / (total - seconds))
        told = ", ".join(f"{what} {s:.1f} s" for what, s in lost)
        print(f"# overhead {i + 1} of {count}: {total:.0f} s, of them {seconds:.1f} s without progress ({told}): {100 * shares[-1]:.1f} %", flush=True)
    mean = sum(shares) / len(shares)
    return f"overhead {100 * mean:.1f} % in the mean of {count} runs (wanted: 10){'' if mean <= 0.1 else ', MISSED'}"


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
