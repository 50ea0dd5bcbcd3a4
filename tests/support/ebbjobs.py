"""What the tests of the queue and its agent share: a state folder, a clock that runs fast, agents that are ended, jobs as JSON."""
import datetime
import json
import os
import signal
import subprocess
import time

import ebbtest

OVER = ("done", "failed", "cancelled")


def utc(seconds):
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Queue:
    """A queue in a folder of its own. rate: seconds of Ebb's wall clock in a real one, from `begin` on."""

    def __init__(self, folder, begin=None, rate=1.0, env=None):
        self.folder = os.path.join(os.path.abspath(folder), "state")
        self.begin, self.rate, self.origin = begin, rate, time.time()
        self.env = {**os.environ, "EBB_STATE_DIR": self.folder, "EBB_CARBON_CACHE": os.path.join(self.folder, "cache"),
                    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                    "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
                    "ASAN_OPTIONS": "detect_leaks=0:" + os.environ.get("ASAN_OPTIONS", ""), **(env or {})}
        for name in ("EBB_CARBON_SOURCE", "EBB_CARBON_ZONE", "EBB_CARBON_FILE", "EBB_CARBON_URL"):
            if name not in (env or {}):
                self.env.pop(name, None)
        if begin is not None:
            self.env["EBB_CLOCK"] = f"{begin}:{self.origin}:{rate}"
        self.agents = []

    def now(self):
        return time.time() if self.begin is None else self.begin + (time.time() - self.origin) * self.rate

    def ebb(self, *args, ok=True, cwd=None, env=None):
        return ebbtest.run(list(args), ok=ok, env={**self.env, **(env or {})}, cwd=cwd)

    def submit(self, *args, cwd=None, env=None):
        """The job's number."""
        return int(self.ebb("submit", *args, cwd=cwd, env=env).stdout.split()[1])

    def jobs(self):
        return {j["id"]: j for j in json.loads(self.ebb("queue", "--all", "--json").stdout)}

    def agent(self, *args, under=()):
        p = subprocess.Popen([*under, *ebbtest.command(["agent", *args])], env=self.env, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        self.agents.append(p)
        return p

    def until_idle(self, *args, timeout=300):
        """Carry out what is in the queue; what the agent said."""
        p = self.agent("--until-idle", *args)
        try:
            said, _ = p.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            p.kill()
            said, _ = p.communicate()
            ebbtest.fail(f"the agent did not come to an end within {timeout} s:\n{said}\n{self.ebb('queue', '--all').stdout}")
        if p.returncode != 0:
            ebbtest.fail(f"the agent left with {p.returncode}:\n{said}")
        return said

    def history(self, job):
        """States that a job went through, in order."""
        lines = self.ebb("why", str(job)).stdout.splitlines()
        begin = next(i for i, line in enumerate(lines) if line.startswith("past"))
        return [line[8:].split(None)[1 if line[8:].split()[0].count(":") else 2] for line in lines[begin:]]

    def processes(self):
        """Live processes that belong to jobs or agents of this queue."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as f:
                    environ = f.read().split(b"\0")
                with open(f"/proc/{pid}/stat") as f:
                    state = f.read().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if f"EBB_STATE_DIR={self.folder}".encode() in environ and state != "Z":
                found.append(int(pid))
        return found

    def end(self):
        """End every process of this queue, whatever state it is in."""
        for p in self.agents:
            if p.poll() is None:
                p.kill()
                p.wait()
            if p.stdout and not p.stdout.closed:
                p.stdout.close()
        for _ in range(100):
            left = self.processes()
            if not left:
                return
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)


def wait_for(what, condition, timeout=120):
    """Wait until condition() is true; its value."""
    end = time.time() + timeout
    while time.time() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    ebbtest.fail(f"waited {timeout} s in vain for: {what}")


def write_intensities(path, begin, values, step=3600):
    """A CSV of one value a step."""
    with open(path, "w") as f:
        f.write("time,intensity\n")
        for i, g in enumerate(values):
            f.write(f"{utc(begin + i * step)},{g}\n")
