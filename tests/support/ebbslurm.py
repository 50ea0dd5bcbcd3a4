"""A private Slurm for a test, by cluster/slurm/dev-cluster, which goes when the test goes."""
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import ebbtest

DEV_CLUSTER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../cluster/slurm/dev-cluster")
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
LONG = 400  # seconds that nothing should ever take, on however slow a machine


def missing():
    """Why there can be no cluster here; None if there can."""
    absent = [p for p in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(p, path=PATH)]
    return "not installed: " + ", ".join(absent) if absent else None


class Unavailable(Exception):
    """Slurm's daemons do not come up on this machine, with their logs."""


class Cluster:
    """Nodes n1, n2, ... of two CPUs each, all on this machine. Use in a with statement."""

    def __init__(self, folder, nodes=2, lua=None):
        self.folder, self.words = folder, [f"--nodes={nodes}"] + ([f"--lua={lua}"] if lua else [])
        self.env = {**os.environ, "PATH": PATH, "SLURM_CONF": f"{folder}/slurm.conf"}

    def __enter__(self):
        self.keeper = subprocess.Popen([sys.executable, DEV_CLUSTER, "keep", self.folder, *self.words], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, text=True)
        line = self.keeper.stdout.readline()
        if line != "ready\n":  # no cgroup file system, for one
            raise Unavailable(line + self.keeper.communicate()[0])
        return self

    def __exit__(self, *failure):
        self.keeper.stdin.close()
        self.keeper.wait(LONG)

    def kill(self, name):
        """kill -9 a daemon ("slurmctld"); the keeper starts it again."""
        with open(f"{self.folder}/{name}.pid") as f:
            os.kill(int(f.read()), signal.SIGKILL)

    def command(self, *args, **more):
        return subprocess.run(args, env={**self.env, **more.pop("env", {})}, capture_output=True, text=True, timeout=LONG,
                              stdin=subprocess.DEVNULL, **more)

    def output(self, *args):
        return self.command(*args).stdout

    def wait(self, reached, what, seconds=LONG):
        """Wait until it is so: for something that must come."""
        deadline = time.time() + seconds
        while not reached():
            if time.time() > deadline:
                raise RuntimeError(f"no {what} after {seconds} s\n{self.logs()}")
            time.sleep(0.05)

    def logs(self):
        """What the controller says of nodes and jobs, and the end of every daemon's log."""
        told = [["sinfo", "-N", "-l"], ["sinfo", "-R"], ["squeue", "-o", "%i %j %T %r %N"]]
        text = "".join(f"-- {' '.join(words)}\n{self.output(*words)}" for words in told)
        for name in sorted(n for n in os.listdir(self.folder) if n.endswith(".log")):
            with open(f"{self.folder}/{name}", errors="replace") as f:
                text += f"-- {name}\n" + "".join(f.readlines()[-12:])
        return text

    def state(self, job):
        """Slurm's word for the state of a job, and how often it was requeued."""
        fields = dict(word.split("=", 1) for word in self.output("scontrol", "-o", "show", "job", str(job)).split() if "=" in word)
        return fields.get("JobState", "?"), int(fields.get("Restarts", "0"))


def skip(why):
    print("SKIPPED:", why)
    sys.exit(ebbtest.SKIP)


@contextlib.contextmanager
def cluster(before=None, **options):
    """A cluster and a folder for the test, prepared by before(folder); where there can be none the test is skipped."""
    why = missing()
    if why:
        skip(f"no Slurm here, {why}")
    with tempfile.TemporaryDirectory(prefix="ebb-slurm-") as folder:
        os.chmod(folder, 0o755)
        if before:
            before(folder)
        try:
            with Cluster(f"{folder}/slurm", **options) as started:
                yield started, folder
        except Unavailable as reason:
            skip(f"Slurm does not come up here: {reason}")
