#!/usr/bin/env python3
"""A real training run, submitted with policy elastic, on a real intensity trace (California in July) under a clock in which
an hour takes two seconds: it is paused and resized by checkpoints, and ends with the SHA-256 of the same run undisturbed.

Usage: clean_hours.py [TIMES]: until it has been paused and resized so often (1; in full 2).

The run could go on for ever until that has happened; then its run file is given a near end, which the next start reads."""
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbtest
from ebbjobs import Queue, wait_for

TRACE = "carbon/dayahead2021/CISO.csv"
BEGIN = 1625925600  # 2021-07-10T14:00Z, morning in California
RUN = """data: {{train: data}}
lanes: 12
model: {{layers: [{{linear: {{out: 16}}}}, {{relu: {{}}}}, {{linear: {{}}}}]}}
train: {{epochs: {epochs}, batch: 96, seed: 5, optimizer: {{adam: {{lr: 0.01}}}}}}
checkpoint: {{every_minutes: 1}}
"""
PROFILE = {"key": "", "sizes": [{"ranks": 1, "rows_per_s": 100, "watts": 300}, {"ranks": 2, "rows_per_s": 170, "watts": 560},
                                {"ranks": 3, "rows_per_s": 220, "watts": 840}]}


def main():
    trace = ebbtest.shared(TRACE)
    if not trace:
        print(f"SKIPPED: no real data {TRACE} here")
        sys.exit(ebbtest.SKIP)
    with tempfile.TemporaryDirectory() as folder:
        ebbtest.sparse_data(f"{folder}/x.svm", 600, 200, 8, 3, 1)
        ebbtest.run(["pack", "-q", "x.svm", "data"], cwd=folder)
        with open(f"{folder}/profile.json", "w") as f:
            json.dump(PROFILE, f)
        write_run(folder, 1000000)
        queue = Queue(folder, BEGIN, 1800.0, {"EBB_CARBON_SOURCE": "file", "EBB_CARBON_FILE": trace})
        try:
            elastic(folder, queue)
        finally:
            queue.end()


def write_run(folder, epochs):
    with open(f"{folder}/run.yaml.new", "w") as f:
        f.write(RUN.format(epochs=epochs))
    os.rename(f"{folder}/run.yaml.new", f"{folder}/run.yaml")


def elastic(folder, queue):
    job = queue.submit("run.yaml", "--name", "clean", "--policy", "elastic", "--ranks", "2", "--ranks-range", "1:3",
                       "--hours", "30", "--deadline", "4d", "--restart-time", "5m", "--profile", "profile.json", cwd=folder)
    agent = queue.agent("--slots", "3")
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    wait_for(f"{times} pauses and {times} resizes", lambda: enough(queue, job, times), timeout=400)
    epoch = max(m["epoch"] for m in ebbtest.metrics(f"{folder}/runs/clean") if "epoch" in m)
    write_run(folder, epoch + 200)
    queue.ebb("hold", str(job))  # so that it is started again, and reads that
    wait_for("the job to be held", lambda: queue.jobs()[job]["state"] == "held")
    queue.ebb("release", str(job))
    wait_for("the run's end", lambda: queue.jobs()[job]["state"] in ("done", "failed", "cancelled"), timeout=400)
    agent.terminate()
    said, _ = agent.communicate(timeout=60)
    end = queue.jobs()[job]
    if end["state"] != "done":
        ebbtest.fail(f"the job {end['state']}: {end['reason']}\n{said}\n{queue.ebb('logs', str(job)).stdout}")
    if end["ended"] > end["deadline"]:
        ebbtest.fail(f"ended at {end['ended']}, after its deadline {end['deadline']}")
    epochs = ebbtest.record(f"{folder}/runs/clean")["config"]["train"]["epochs"]
    ebbtest.run(["train", "run.yaml", "-q", "--set", "run.name=undisturbed", "--set", f"train.epochs={epochs}"], cwd=folder)
    got, wanted = (ebbtest.hashes(f"{folder}/runs/{name}") for name in ("clean", "undisturbed"))
    if got != wanted or not all(wanted):
        ebbtest.fail(f"hashes {got}, undisturbed {wanted}")
    ranks = [r["ranks"] for r in ebbtest.record(f"{folder}/runs/clean").get("resizes", [])]
    print(f"{end['pauses']} pauses, {end['resizes']} resizes to {ranks} ranks, {epochs} epochs: {got[0][:16]} as undisturbed")


def enough(queue, job, times):
    j = queue.jobs()[job]
    if j["state"] in ("done", "failed", "cancelled"):
        ebbtest.fail(f"the job {j['state']}: {j['reason']}\n{queue.ebb('logs', str(job)).stdout}")
    return j["pauses"] >= times and j["resizes"] >= times


if __name__ == "__main__":
    main()
