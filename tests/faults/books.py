#!/usr/bin/env python3
"""Books of real runs: replayed counters with wraps and lost permissions under four ranks, resumption on another host, what asap would
have emitted on a fast clock; every figure recomputed by cluster/audit from the ledger, and every changed row found."""
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../support"))
import ebbtest as t

AUDIT = os.path.join(HERE, "../../cluster/audit")
RUN = """
data: {{train: {folder}/data/train, valid: {folder}/data/valid}}
lanes: 6
model: {{layers: [{{linear: {{out: 9}}}}, {{relu: {{}}}}, {{linear: {{}}}}]}}
train: {{epochs: 100000, batch: 60, threads: 1}}
carbon: {{file: {folder}/grid.csv, zone: XX, pue: 1.25, embodied: 1000}}
run: {{dir: {folder}/runs}}
"""
WRAP = 4000.0  # joules; ten seconds, so that a reader who is late by some is right all the same
WATTS = 400.0  # that the replayed package draws


class Counter(threading.Thread):
    """A powercap tree whose one package draws WATTS; for a while its file is away, and then far ahead."""

    def __init__(self, root):
        super().__init__(daemon=True)
        self.zone = f"{root}/sys/class/powercap/intel-rapl:0"
        os.makedirs(self.zone)
        os.symlink("/proc", f"{root}/proc")
        self.write("name", "package-0\n")
        self.write("max_energy_range_uj", f"{WRAP * 1e6:.0f}\n")
        self.ended, self.away, self.began, self.ahead = False, False, time.monotonic(), WRAP - 1.5 * WATTS  # wraps soon
        self.tick()
        self.start()

    def write(self, name, text):
        with open(f"{self.zone}/{name}.new", "w") as f:
            f.write(text)
        os.rename(f"{self.zone}/{name}.new", f"{self.zone}/{name}")

    def tick(self):
        joules = ((time.monotonic() - self.began) * WATTS + self.ahead) % WRAP
        if not self.away:
            self.write("energy_uj", f"{joules * 1e6:.0f}\n")

    def run(self):
        while not self.ended:
            try:
                self.tick()
            except FileNotFoundError:  # the folder goes when a test has failed
                return
            time.sleep(0.005)

    def lose(self):
        """No permission any more, as root sees it: the file is away."""
        self.away = True
        time.sleep(0.02)
        os.unlink(f"{self.zone}/energy_uj")

    def find(self):
        self.ahead += 17.0
        self.away = False


class Job:
    def __init__(self, args, ranks, env, host=None):
        command = t.command(args, ranks)
        if host:
            command = ["unshare", "--uts", "sh", "-c", f"hostname {host} && exec \"$@\"", "sh", *command]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
                                        env={**os.environ, **env})

    def wait_rows(self, path, rows):
        """Until the ledger has so many rows of work."""
        deadline = time.time() + 90
        while count(path) < rows:
            if self.process.poll() is not None or time.time() > deadline:
                self.process.kill()
                t.fail(f"no {rows} rows in {path}: {count(path)}\n{self.process.communicate()[1]}")
            time.sleep(0.05)

    def stop(self):
        """The run's ranks, not the launcher: they have the time they need."""
        for pid in ranks_of(self.process.pid):
            os.kill(pid, signal.SIGUSR1)
        told = self.process.communicate(timeout=90)[1]
        return told


def ranks_of(pid):
    """The processes of ebb among a process and its descendants."""
    found, todo = [], [pid]
    while todo:
        at = todo.pop()
        try:
            with open(f"/proc/{at}/task/{at}/children") as f:
                todo += [int(child) for child in f.read().split()]
            if os.path.samefile(os.readlink(f"/proc/{at}/exe"), t.EBB):
                found.append(at)
        except OSError:
            pass
    return found


def query(path, sql):
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10) as db:
        return db.execute(sql).fetchall()


def count(path):
    try:
        return query(path, "SELECT count(*) FROM interval WHERE host <> ''")[0][0]
    except sqlite3.Error:
        return 0


def audit(run, report=None, ok=True):
    done = subprocess.run([sys.executable, AUDIT, run, *([report] if report else [])], capture_output=True, text=True, timeout=60)
    if (done.returncode == 0) != ok:
        t.fail(f"audit of {run}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def report(run, folder):
    path = f"{folder}/report.json"
    with open(path, "w") as f:
        f.write(t.run(["report", run, "--json"]).stdout)
    with open(path) as f:
        return path, json.load(f)


def changed_rows_are_found(run, told, folder):
    """Each in a copy of its own; by the audit and by ebb report."""
    for number, change in enumerate(["UPDATE interval SET job_j = job_j * 1.0000001 WHERE seq = (SELECT min(seq) FROM interval WHERE host <> '')",
                                     "UPDATE interval SET intensity = intensity - 1 WHERE host <> '' AND seq = (SELECT max(seq) FROM interval)",
                                     "DELETE FROM interval WHERE seq = 2",
                                     "DELETE FROM interval WHERE seq = (SELECT max(seq) FROM interval)"]):
        copy = f"{folder}/copy{number}"
        shutil.copytree(run, copy)
        with sqlite3.connect(f"{copy}/ledger.db") as db:
            db.execute(change)
        db.close()
        if "audit: FAILED" not in audit(copy, ok=False):
            t.fail(f"not found: {change}")
        if "max(seq)" not in change and t.run(["report", copy], ok=False).returncode != 65:
            t.fail(f"ebb report does not refuse: {change}")
    with open(told) as f:
        wrong = json.load(f)
    wrong["carbon"]["grams_co2e"] *= 1 + 1e-8
    with open(f"{folder}/wrong.json", "w") as f:
        json.dump(wrong, f)
    audit(run, f"{folder}/wrong.json", ok=False)


def a_profile_is_measured_and_planned_by(folder, env):
    """Ranks that the counters say draw some power; the plan takes both sizes."""
    path = f"{folder}/runs/run/profile.json"
    mpi = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "ASAN_OPTIONS": "detect_leaks=0:" + os.environ.get("ASAN_OPTIONS", ""),
           "OMPI_MCA_btl_vader_single_copy_mechanism": "none", "HWLOC_COMPONENTS": "-gl"}
    t.run(["profile", f"{folder}/run.yaml", "--ranks", "2,1", "--seconds", "1", "-o", path], env={**env, **mpi})
    with open(path) as f:
        profile = json.load(f)
    if [s["ranks"] for s in profile["sizes"]] != [1, 2] or not all(s["rows_per_s"] > 0 and s["watts"] > 0 and s["measured"] for s in profile["sizes"]):
        t.fail(f"profile: {profile}")
    plan = json.loads(t.run(["plan", "--policy", "elastic", "--work", profile["sizes"][0]["rows_per_s"] * 7200, "--profile", path, "--zone", "DE",
                             "--json"]).stdout)
    if not plan:
        t.fail("no plan by the profile")
    failed = t.run(["profile", f"{folder}/run.yaml", "--set", "data.train=/nowhere", "-o", path], ok=False, env={**env, **mpi})
    if failed.returncode != 66 or "/nowhere" not in failed.stderr:
        t.fail(f"data that is not there: {failed.returncode} {failed.stderr}")
    failed = t.run(["profile", f"{folder}/run.yaml", "--set", "eval.metrics=auc_of_nothing", "-o", path], ok=False, env={**env, **mpi})
    if failed.returncode != 69 or "auc_of_nothing" not in failed.stderr:
        t.fail(f"a trial that ends by itself: {failed.returncode} {failed.stderr}")


def main():
    # The counter's file lies in memory: a disk that is busy would hold it up.
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, \
         tempfile.TemporaryDirectory(ignore_cleanup_errors=True, dir=in_memory) as memory:
        t.sparse_data(f"{folder}/d.svm", 600, 200, 8, 3, 1)
        t.run(["pack", f"{folder}/d.svm", f"{folder}/data", "--split", "train=0.8,valid=0.2"])
        with open(f"{folder}/run.yaml", "w") as f:
            f.write(RUN.format(folder=folder))
        with open(f"{folder}/grid.csv", "w") as f:  # dirty until noon, then clean
            f.write("time_utc,actual\n" + "".join(f"2022-06-{1 + h // 24:02}T{h % 24:02}:00Z,{600 if h % 24 < 12 else 60 + h % 24}\n"
                                                  for h in range(24 * 12)))
        os.makedirs(f"{folder}/textfile")
        counter = Counter(f"{memory}/root")
        begin = 1654084800 + 43200  # 2022-06-02T00:00Z
        env = {"EBB_METER_ROOT": f"{memory}/root", "EBB_CLOCK": f"{begin}:{time.time():.3f}:1800", "EBB_PROMETHEUS_DIR": f"{folder}/textfile",
               "EBB_JOB_SUBMITTED": str(begin - 86400)}
        run = f"{folder}/runs/run"
        ledger = f"{run}/ledger.db"

        job = Job(["train", f"{folder}/run.yaml", "-q"], 4, env)
        job.wait_rows(ledger, 2)
        counter.lose()
        job.wait_rows(ledger, 4)
        counter.find()
        job.wait_rows(ledger, 6)
        job.stop()
        pause = time.time()
        able = subprocess.run(["unshare", "--uts", "true"], capture_output=True).returncode == 0
        other = "another-node" if able else None
        while time.time() < pause + 1.5:  # a pause that the ledger must show: 45 minutes of the clock
            time.sleep(0.1)
        first = count(ledger)
        job = Job(["train", "--resume", run, "-q"], 2, env, other)
        job.wait_rows(ledger, first + 3)
        job.stop()

        rows = query(ledger, "SELECT host, ranks, seconds, node_j, job_j, others_j, idle_j, measured_j, intensity, begin, end "
                             "FROM interval ORDER BY seq")
        work = [r for r in rows if r[0]]
        if sorted({r[1] for r in work}) != [2, 4] or (able and len({r[0] for r in work}) != 2):
            t.fail(f"hosts and ranks: {sorted({(r[0], r[1]) for r in work})}")
        for host, ranks, seconds, node, mine, others, idle, measured, intensity, start, end in work:
            if abs(mine + others + idle - node) > 1e-9 * node:
                t.fail(f"job {mine} + others {others} + idle {idle} is not the node {node}")
            if measured - WATTS * seconds > 0.9 * WRAP:  # a wrap too many; less is a file that is late on a busy machine
                t.fail(f"spurious joules: {measured} in {seconds} s")
        # Wholly measured intervals hold what the counter rose by.
        whole = [r for r in work if r[7] == r[3]]
        drawn, told = WATTS * sum(r[2] for r in whole), sum(r[3] for r in whole)
        if len(whole) < 5 or abs(told - drawn) > 0.01 * drawn + 0.5 * WATTS:  # the file may be late at both ends
            t.fail(f"{told} J told, {drawn} J drawn, {len(whole)} intervals")
        if len(whole) == len(work):
            t.fail("the time without a counter was told as measured")
        if not [r for r in rows if not r[0] and r[10] > work[0][10]]:
            t.fail("the grid during the pause is not in the ledger")

        shares = t.record(run)["energy"]["starts"]
        if [len(s) for s in shares] != [4, 2] or any(s["joules"] <= 0 or s["cpu_seconds"] <= 0 for start in shares for s in start):
            t.fail(f"joules of ranks: {shares}")
        ranks, jobs = sum(s["joules"] for start in shares for s in start), sum(r[4] for r in work)
        if abs(ranks - jobs) > 0.01 * jobs:
            t.fail(f"the ranks were charged {ranks} J, the job {jobs} J")

        path, told = report(run, folder)
        print(audit(run, path), end="")
        if told["carbon"]["unknown_joules"] > 0 or not told["carbon"]["asap_grams_co2e"] > 0:
            t.fail(f"carbon: {told['carbon']}")
        if told["sci"]["unit"] != "gCO2e per million rows trained on" or not told["sci"]["value"] > 0:
            t.fail(f"sci: {told['sci']}")
        text = t.run(["report", run]).stdout
        for word in ("energy ", "carbon ", "had it started at once", "SCI "):
            if word not in text:
                t.fail(f"ebb report lacks {word}:\n{text}")
        with open(f"{run}/report.html") as f:
            page = f.read()
        if page.count("<svg") < 4 or "<script" in page or "http" in page.replace("https://www.w3.org", ""):
            t.fail("report.html: drawings missing, or not self-contained")
        if not any(name.endswith(".prom") for name in os.listdir(f"{folder}/textfile")):
            t.fail("nothing for Prometheus")
        if json.loads(t.run(["compare", run, run, "--json"]).stdout) != [told, told]:
            t.fail("ebb compare --json is not the two reports")
        text = t.run(["compare", run, run]).stdout
        if f"{told['carbon']['grams_co2e']:.5g}" not in text or "bits " not in text:
            t.fail(f"ebb compare:\n{text}")
        changed_rows_are_found(run, path, folder)
        a_profile_is_measured_and_planned_by(folder, env)
        counter.ended = True
        counter.join()
    print("books: ok")


if __name__ == "__main__":
    main()
