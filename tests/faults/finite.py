#!/usr/bin/env python3
"""Losses, gradients and weights that are not finite: one line with step, lane and parameter, the same on any number of ranks, and no checkpoint of them."""
import json
import os
import re
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbtest as t

RUN = """
data: {{train: {folder}/data}}
lanes: 6
model: {model}
train: {{epochs: 2, batch: 30, threads: 2, optimizer: {{sgd: {{lr: 0.01}}}}}}
checkpoint: {{every_steps: 1, keep: 3}}
run: {{dir: {folder}/runs}}
"""
LAYERS = "{layers: [{linear: {out: 20}}, {relu: {}}, {linear: {}}]}"


def checkpoints(run_dir):
    done = t.run(["ckpt", "list", "--json", run_dir], ok=False)
    if done.returncode == 66:
        return []
    found = json.loads(done.stdout)
    if any(e["state"] != "verified" for e in found):
        t.fail(f"{run_dir}: all checkpoints should be whole: {found}")
    return found


def check_finite(found):
    """A difference to or from a value that is not finite is not a number."""
    for a, b in zip(found, found[1:]):
        arrays = json.loads(t.run(["ckpt", "diff", "--json", a["path"], b["path"]], ok=False).stdout)["arrays"]
        if any(d["largest"] is None for d in arrays):
            t.fail(f"{a['path']} or {b['path']} holds values that are not finite: {arrays}")


def ends(folder, name, model, settings, pattern, last=None):
    """The run fails alike on 1, 2 and 3 ranks. last: step of the newest checkpoint."""
    with open(f"{folder}/{name}.yaml", "w") as f:
        f.write(RUN.format(folder=folder, model=model))
    told = set()
    for ranks in (0, 2, 3):
        run_dir = f"{folder}/runs/{name}{ranks}"
        args = ["train", "-q", f"{folder}/{name}.yaml", "--set", f"run.name={name}{ranks}"]
        done = t.run(args + [a for s in settings for a in ("--set", s)], ranks, ok=False, timeout=120)
        lines = [line for line in done.stderr.splitlines() if line.startswith("ebb: error: ")]
        if done.returncode != 65 or len(lines) != 1 or not re.search(pattern, lines[0]):
            t.fail(f"{name} on {ranks} ranks: wanted 65 and \"{pattern}\", not {done.returncode}\n{done.stderr}")
        found = checkpoints(run_dir)
        check_finite(found)
        steps = [e["step"] for e in found]
        if t.record(run_dir)["outcome"] != "failed" or os.path.exists(f"{run_dir}/model.h5"):
            t.fail(f"{name} on {ranks} ranks should be recorded as failed, without a model")
        if last is not None and steps[:1] != ([last] if last else []):
            t.fail(f"{name} on {ranks} ranks: the newest checkpoint should be of step {last}: {steps}")
        told.add((lines[0], tuple(e["weights_sha256"] for e in found)))
    if len(told) != 1:
        t.fail(f"{name}: ranks should tell and keep the same: {told}")
    print("ok", name, flush=True)


def rolls_back(folder):
    """A rate that is too large is halved until it is not, alike for any number of ranks, and also where the run was interrupted on the way."""
    with open(f"{folder}/back.yaml", "w") as f:
        f.write(RUN.format(folder=folder, model=LAYERS))
    args = ["train", f"{folder}/back.yaml", "--log-every", "1", "--set", "train.on_nonfinite=rollback", "--set", "train.optimizer.sgd.lr=100", "--set"]
    ended = []
    for ranks in (0, 2, 3):
        done = t.run(args + [f"run.name=back{ranks}"], ranks)
        record, lines = t.record(f"{folder}/runs/back{ranks}"), t.metrics(f"{folder}/runs/back{ranks}")
        steps = [m["step"] for m in lines if m["kind"] == "step"]
        told = done.stderr.count("of the learning rate")
        if steps != list(range(1, record["steps"] + 1)) or len(record["rollbacks"]) != told or len(record["starts"]) != 1:
            t.fail(f"rollback on {ranks} ranks: steps {steps}, told {told} times: {record['rollbacks']}")
        ended.append((t.hashes(f"{folder}/runs/back{ranks}"), record["rollbacks"]))
    backs = ended[0][1]
    rates = [b["rate"] for b in backs]
    if ended[0] != ended[1] or ended[0] != ended[2] or rates != [0.5 ** (i + 1) for i in range(len(rates))] or len(rates) < 2:
        t.fail(f"rollbacks should be alike on any number of ranks: {ended}")
    if not all("not finite" in b["reason"] and b["to_step"] <= b["step"] for b in backs) or backs[1]["to_step"] >= backs[0]["to_step"]:
        t.fail(f"the second time at the same place, it should go further back: {backs}")
    t.run(args + ["run.name=halves", "--set", f"train.max_steps={backs[1]['step'] + 1}"], 2)
    t.run(["train", "-q", "--resume", f"{folder}/runs/halves", "--set", "train.max_steps=0"], 3)
    if t.hashes(f"{folder}/runs/halves") != ended[0][0]:
        t.fail("rollback: resumed, the run differs")
    refused = t.run(["train", f"{folder}/back.yaml", "--set", "run.name=ftrl", "--set", "train.on_nonfinite=rollback", "--set", "train.optimizer={ftrl: {}}"], ok=False)
    if refused.returncode != 64 or "train.on_nonfinite: ftrl cannot go on with another rate" not in refused.stderr:
        t.fail(f"ftrl should be refused: {refused.returncode}\n{refused.stderr}")
    print("ok rollback", flush=True)


def main():
    plugin = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="ebb-finite-") as folder:
        t.dense_data(folder, 600, 12, 3, 1)
        t.run(["pack", "-q", f"{folder}/x.npy", f"{folder}/data", "--target", f"{folder}/y.npy"])

        def nan(where):
            return f'{{plugin: {plugin}, nan: "{where}"}}'

        finite = r"; lower the learning rate, .*; the checkpoints before it are kept$"
        ends(folder, "diverges", LAYERS, ["train.optimizer.sgd.lr=1e20"],
             r"the (loss|weights of \S+) (is|are) not finite (at|after) step [0-9]+ \(epoch 1\).*linear")
        ends(folder, "momentum", LAYERS, ["train.optimizer.sgd.lr=3e37", "train.optimizer.sgd.momentum=0.99", "checkpoint.every_steps=0"],
             r"not finite (at|after) step [0-9]+ \(epoch 1\).*linear", 0)
        ends(folder, "output", nan("4 2 out"), [],
             r"the loss is not finite at step 5 \(epoch 1\): lane 2, gradient of weight" + finite, 4)
        ends(folder, "accumulated", nan("4 3 out"), ["train.accumulate=3"],
             r"the loss is not finite at step 5 \(epoch 1\): lane 3, gradient of weight" + finite, 4)
        ends(folder, "clipped", nan("25 5 spare"), ["train.clip_norm=1"],
             r"the gradient is not finite at step 26 \(epoch 2\): lane 5, gradient of spare" + finite, 25)
        ends(folder, "shown", nan("3 1 weight"), ["checkpoint.every_steps=0"],
             r"not finite .*weights? of weight|the weights of weight are not finite after step 4 \(epoch 1\)", 0)
        ends(folder, "hidden", nan("3 1 spare"), ["checkpoint.every_steps=0"],
             r"the weights of spare are not finite after step [4-7] \(epoch 1\); lower", 0)
        ends(folder, "saved", nan("3 1 spare"), [], r"the weights of spare are not finite after step 4 \(epoch 1\); lower", 3)
        ends(folder, "last", nan("5 0 spare"), ["train.max_steps=6", "checkpoint.every_steps=5"],
             r"the weights of spare are not finite after step 6 \(epoch 1\); lower", 5)
        ends(folder, "state", nan("4 1 huge"), ["train.optimizer={adam: {lr: 0.001}}"],
             r"the values of the optimiser's state \"v\" of spare are not finite after step 5; lower the learning rate, .*; the checkpoints before it are kept$", 4)
        ends(folder, "unsaved_state", nan("4 1 huge"), ["train.optimizer={adam: {lr: 0.001}}", "checkpoint.every_steps=0"],
             r"the values of the optimiser's state \"v\" of spare are not finite after step [0-9]+; lower the learning rate, .*; the checkpoints before it are kept$", 0)
        rolls_back(folder)
    print("12 passed, 0 failed")


if __name__ == "__main__":
    main()
