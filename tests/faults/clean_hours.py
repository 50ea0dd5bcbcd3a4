#!/usr/bin/env python3
"""A real training run, submitted with policy elastic, along hours of a real grid (South Australia in 2022) of two seconds each: it is
paused twice and resized twice by checkpoints, ends in time with the SHA-256 of the same run undisturbed, and its books, which
cluster/audit recomputes, say that it emitted less than had it started at once.

What happens when is the trace's doing, not the machine's: steps last as long on a fast machine as on a busy one (EBB_PLUGIN_SLOW), the
pieces of the trace differ so much that one plan is the best by far, and hours that are left over take up what slow starts have cost."""
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../support"))
import ebbtest
from ebbjobs import OVER, Queue, wait_for, write_intensities

AUDIT = os.path.join(HERE, "../../cluster/audit")
TRACE, ZONE = "carbon/em2022_zones.csv", "AU-SA"
BEGIN = 1656633600  # 2022-07-01T00:00Z
HOUR = 2.0          # seconds
# Pieces of the trace, one after the other: where they begin, hours, and the ranks that are planned for them.
YESTERDAY = ("2022-04-04T01:00Z", 24)  # before it is submitted, since books begin with what was known
PIECES = [("2022-04-05T01:00Z", 4, 1),   # 150 to 180 g/kWh
          ("2022-07-30T14:00Z", 6, 2),   # 30 to 40
          ("2022-06-01T11:00Z", 4, 0),   # 500
          ("2022-06-04T21:00Z", 6, 2),   # 35 to 40
          ("2022-08-05T07:00Z", 4, 1),   # 160 to 175
          ("2022-04-03T14:00Z", 4, 0),   # 440 to 480
          ("2022-03-08T11:00Z", 4, 2),   # 36 to 40
          ("2022-07-14T14:00Z", 10, 1),  # 250 to 280: what is left
          ("2022-01-12T09:00Z", 11, 1)]  # 260 to 285: for slow machines
# The second rank does as much as the first, at three times the power: 3 and 9 joules a row.
PROFILE = {"sizes": [{"ranks": 1, "rows_per_s": 100, "watts": 300}, {"ranks": 2, "rows_per_s": 200, "watts": 1200}]}
LANES, LANE_MS = 12, 20
RANK_HOURS = 37
RUN = """data: {{train: data}}
lanes: {lanes}
model: {{plugin: {plugin}}}
train: {{epochs: 1000000, max_steps: {steps}, batch: 96, seed: 5, threads: 1, optimizer: {{adam: {{lr: 0.01}}}}}}
"""


def main():
    trace = ebbtest.shared(TRACE)
    if not trace:
        print(f"SKIPPED: no real data {TRACE} here")
        sys.exit(ebbtest.SKIP)
    with tempfile.TemporaryDirectory() as folder:
        make_data(folder)
        write_grid(folder, trace, BEGIN, PIECES)
        steps = write_run(folder, RANK_HOURS, HOUR)
        queue = Queue(folder, BEGIN, 3600 / HOUR, {"EBB_CARBON_SOURCE": "file", "EBB_CARBON_FILE": f"{folder}/grid.csv",
                                                   "EBB_TEST_LANE_MS": str(LANE_MS)})
        try:
            elastic(folder, queue, steps)
        finally:
            queue.end()


def make_data(folder):
    ebbtest.dense_data(folder, 600, 12, 3, 1)
    ebbtest.run(["pack", "-q", "x.npy", "data", "--target", "y.npy"], cwd=folder)
    with open(f"{folder}/profile.json", "w") as f:
        json.dump(PROFILE, f)


def write_grid(folder, trace, begin, pieces):
    with open(trace) as f:
        column = f.readline().strip().split(",").index(ZONE)
        rows = [line.split(",") for line in f]
    times = [row[0] for row in rows]
    hours = [rows[times.index(first) + i][column].strip() for first, n, *_ in [YESTERDAY, *pieces] for i in range(n)]
    write_intensities(f"{folder}/grid.csv", begin - 3600 * YESTERDAY[1], hours)


def write_run(folder, rank_hours, hour):
    """The run's steps, so that it takes so many hours of one rank, of so many seconds each."""
    steps = int(rank_hours * hour * 1000 / (LANES * LANE_MS))
    with open(f"{folder}/run.yaml", "w") as f:
        f.write(RUN.format(lanes=LANES, plugin=os.environ["EBB_PLUGIN_SLOW"], steps=steps))
    return steps


def elastic(folder, queue, steps):
    hours = sum(hours for _, hours, _ in PIECES)
    job = queue.submit("run.yaml", "--name", "clean", "--policy", "elastic", "--ranks", "2", "--ranks-range", "1:2", "--hours",
                       str(RANK_HOURS / 2), "--deadline", f"{hours}h", "--restart-time", "30m", "--profile", "profile.json", cwd=folder)
    agent = queue.agent("--slots", "2")
    wait_for("the run's end", lambda: queue.jobs()[job]["state"] in OVER, timeout=240)
    agent.terminate()
    said, _ = agent.communicate(timeout=60)
    end = queue.jobs()[job]
    told = f"{queue.ebb('why', str(job)).stdout}\n{said}\n{queue.ebb('logs', str(job)).stdout}"
    if end["state"] != "done" or end["ended"] > end["deadline"]:
        ebbtest.fail(f"the job {end['state']} at {end['ended']}, deadline {end['deadline']}: {end['reason']}\n{told}")
    if end["pauses"] < 2 or end["resizes"] < 2:
        ebbtest.fail(f"{end['pauses']} pauses, {end['resizes']} resizes\n{told}")
    run = f"{folder}/runs/clean"
    ebbtest.run(["train", "run.yaml", "-q", "--set", "run.name=undisturbed"], ranks=3, cwd=folder)
    got, wanted = (ebbtest.hashes(f"{folder}/runs/{name}") for name in ("clean", "undisturbed"))
    if got != wanted or not all(wanted):
        ebbtest.fail(f"hashes {got}, undisturbed {wanted}\n{told}")
    told = ebbtest.run(["compare", "clean", "undisturbed"], cwd=folder).stdout
    if "weights equal, optimiser state equal" not in told:
        ebbtest.fail(f"ebb compare:\n{told}")
    grams, asap = books(folder, run)
    print(f"{end['pauses']} pauses, {end['resizes']} resizes, {steps} steps: {got[0][:16]} as undisturbed; "
          f"{grams:.4g} g, {asap:.4g} g had it started at once")


def books(folder, run):
    """What it emitted, and would have; as the report says, and the audit agrees."""
    with open(f"{folder}/report.json", "w") as f:
        f.write(ebbtest.run(["report", run, "--json"]).stdout)
    audit = subprocess.run([sys.executable, AUDIT, run, f"{folder}/report.json"], capture_output=True, text=True, timeout=60)
    if audit.returncode != 0:
        ebbtest.fail(f"audit: {audit.stdout}{audit.stderr}")
    with open(f"{folder}/report.json") as f:
        carbon = json.load(f)["carbon"]
    if not 0 < carbon["grams_co2e"] < carbon["asap_grams_co2e"] or carbon["unknown_joules"] > 0:
        ebbtest.fail(f"carbon: {carbon}")
    return carbon["grams_co2e"], carbon["asap_grams_co2e"]


if __name__ == "__main__":
    main()
