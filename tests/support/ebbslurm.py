"""A private Slurm on this machine: munged, slurmctld and one slurmd per node, in a folder, on free ports. Needs root."""
import os
import secrets
import shutil
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"


def missing():
    """Why there can be no cluster here; None if there can."""
    absent = [p for p in PROGRAMS if not shutil.which(p, path=PATH)]
    if absent:
        return "not installed: " + ", ".join(absent)
    return None if os.geteuid() == 0 else "Slurm's daemons need root"


def free_ports(count):
    """Ports that follow each other and that nobody listens on."""
    for first in range(20000 + os.getpid() % 9000, 32000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
    raise RuntimeError("no free ports")


class Unavailable(Exception):
    """Slurm's daemons do not come up on this machine, with their logs."""


class Cluster:
    """Nodes n1, n2, ... of two CPUs each, all on this machine. Use in a with statement."""

    def __init__(self, folder, nodes=2):
        self.folder, self.nodes, self.daemons = folder, nodes, []
        self.env = {**os.environ, "PATH": PATH, "SLURM_CONF": f"{folder}/slurm.conf"}

    def write_config(self):
        os.chmod(self.folder, 0o755)
        first = free_ports(self.nodes + 1)
        with open(f"{self.folder}/munge.key", "wb", opener=lambda p, f: os.open(p, f, 0o600)) as f:
            f.write(secrets.token_bytes(128))
        for name in ["state"] + [f"spool/n{i + 1}" for i in range(self.nodes)]:
            os.makedirs(f"{self.folder}/{name}")
        with open(f"{self.folder}/slurm.conf", "w") as f:
            f.write(f"""ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={first}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={self.folder}/munge.socket
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool/%n
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
MinJobAge=3600
DebugFlags=NO_CONF_HASH
NodeName=n[1-{self.nodes}] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{first + 1}-{first + self.nodes}] CPUs=2 RealMemory=1000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
""")
        # PMIx puts its sockets into TmpFS, under names that two nodes on one machine would share.
        for i in range(self.nodes):
            os.makedirs(f"{self.folder}/tmp/n{i + 1}")
            with open(f"{self.folder}/n{i + 1}.conf", "w") as f:
                f.write(f"include {self.folder}/slurm.conf\nTmpFS={self.folder}/tmp/n{i + 1}\n")

    def start(self, name, command):
        log = open(f"{self.folder}/{name}.log", "w")
        self.daemons.append(subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def __enter__(self):
        self.write_config()
        place = self.folder
        self.start("munged", ["munged", "--foreground", "--force", f"--key-file={place}/munge.key", f"--socket={place}/munge.socket",
                              f"--pid-file={place}/munge.pid", f"--seed-file={place}/munge.seed", f"--log-file={place}/munge.log"])
        try:
            self.wait(lambda: os.path.exists(f"{place}/munge.socket"), "munged's socket", 20)
            self.start("slurmctld", ["slurmctld", "-D"])
            for i in range(self.nodes):
                self.start(f"n{i + 1}", ["slurmd", "-D", "-N", f"n{i + 1}", "-f", f"{place}/n{i + 1}.conf"])
            self.wait(lambda: self.output("sinfo", "-h", "-N", "-o", "%t").split().count("idle") == self.nodes, "idle nodes", 30)
        except RuntimeError as why:  # no cgroup file system, for one
            self.stop()
            raise Unavailable(str(why)) from None
        return self

    def stop(self):
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def __exit__(self, *failure):
        self.command("scancel", "--user=root")
        deadline = time.time() + 10
        while self.output("squeue", "-h").strip() and time.time() < deadline:
            time.sleep(0.1)
        self.stop()

    def command(self, *args, **more):
        return subprocess.run(args, env={**self.env, **more.pop("env", {})}, capture_output=True, text=True, timeout=60,
                              stdin=subprocess.DEVNULL, **more)

    def output(self, *args):
        return self.command(*args).stdout

    def wait(self, reached, what, seconds=60):
        deadline = time.time() + seconds
        while not reached():
            if time.time() > deadline:
                raise RuntimeError(f"no {what} after {seconds} s\n{self.logs()}")
            time.sleep(0.05)

    def logs(self):
        """The end of every daemon's log."""
        text = ""
        for name in sorted(n for n in os.listdir(self.folder) if n.endswith(".log")):
            with open(f"{self.folder}/{name}") as f:
                text += f"-- {name}\n" + "".join(f.readlines()[-12:])
        return text

    def state(self, job):
        """Slurm's word for the state of a job, and how often it was requeued."""
        fields = dict(word.split("=", 1) for word in self.output("scontrol", "-o", "show", "job", str(job)).split() if "=" in word)
        return fields.get("JobState", "?"), int(fields.get("Restarts", "0"))
