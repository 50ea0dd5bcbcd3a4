#!/usr/bin/env python3
"""cluster/slurm/job_submit.lua in a real slurmctld, on a file by `ebb carbon export`: batch scripts that ask for it begin when the
grid is clean; a stale, broken or missing file, or a comment that is not understood, and they begin at once."""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbslurm
import ebbtest as t

PLUGIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../cluster/slurm/job_submit.lua")


def write_forecast(folder):
    """Dirty for three hours, clean for two, dirty again."""
    with open(f"{folder}/grid.csv", "w") as f:
        f.write("time,g\n")
        for hour in range(24):
            f.write(f"2026-06-01T{hour:02}:00Z,{100 if hour in (3, 4) else 400}\n")
    t.run(["carbon", "export", "--file", f"{folder}/grid.csv", "--hours", "24", "--step", "60", f"{folder}/carbon"])
    with open(f"{folder}/carbon") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("begin "))


def submit(cluster, folder, comment, *options):
    """Seconds since 1970 at which Slurm lets the job begin at the earliest, its comment, and what its owner was told."""
    submitted = cluster.command("sbatch", "--parsable", "--output=/dev/null", f"--comment={comment}", *options, "--wrap", "true", cwd=folder)
    job = submitted.stdout.strip()
    if not job:
        t.fail(f"sbatch: {submitted.stderr}")
    shown = cluster.output("scontrol", "-o", "show", "job", job)
    fields = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    start = time.mktime(time.strptime(fields["EligibleTime"], "%Y-%m-%dT%H:%M:%S")) if fields["EligibleTime"] != "Unknown" else 0
    return start, shown, submitted.stderr


def begins_at_once(cluster, folder, comment, why, *options):
    start, shown, told = submit(cluster, folder, comment, *options)
    if not 0 < start <= time.time() + 1 or why not in told:
        t.fail(f"{comment}, wanted at once for \"{why}\": {told}{shown}")


def follows_the_file(cluster, folder):
    begin = write_forecast(folder)
    for comment, options, hours in (("ebb:deadline=8h,hours=2", (), 3), ("mine ebb:deadline=8h", ("--time=60",), 3),
                                    ("ebb:deadline=5h30m,hours=2", (), 3)):
        start, shown, told = submit(cluster, folder, comment, *options)
        if start != begin + 3600 * hours or "saves about" not in told or "saves about" not in shown:
            t.fail(f"{comment}: wanted {begin + 3600 * hours}, got {start}: {told}{shown}")
    begins_at_once(cluster, folder, "ebb:deadline=2h,hours=2", "now is as good")
    begins_at_once(cluster, folder, "ebb:deadline=8h", "how long")
    begins_at_once(cluster, folder, "ebb:deadline=eight,hours=1", "deadline is needed")
    begins_at_once(cluster, folder, "something else", "")
    with open(f"{folder}/carbon") as f:
        whole = f.read()
    for text, why in ((whole[:-5], "broken"), (whole.replace("valid-until 1", "valid-until 0"), "too old"), ("\0" * 1000, "broken"), ("", "broken")):
        with open(f"{folder}/carbon", "w") as f:
            f.write(text)
        begins_at_once(cluster, folder, "ebb:deadline=8h,hours=2", why)
    os.unlink(f"{folder}/carbon")
    begins_at_once(cluster, folder, "ebb:deadline=8h,hours=2", "no forecast")
    os.mkdir(f"{folder}/carbon")
    begins_at_once(cluster, folder, "ebb:deadline=8h,hours=2", "broken")
    print("ok: jobs begin as the file says, and at once where it says nothing")


def main():
    def before(folder):
        os.environ["EBB_CARBON_EXPORT"] = f"{folder}/carbon"
    with ebbslurm.cluster(before, nodes=1, lua=PLUGIN) as (cluster, folder):
        follows_the_file(cluster, folder)


main()
