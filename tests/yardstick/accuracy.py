#!/usr/bin/env python3
"""Held-out accuracy on real data, against published or independently computed figures.

  a9a              logistic regression                  >= 84.8 %
  dna              logistic regression, 3 classes       within 0.5 points of LIBLINEAR's 94.9 %
  fashion-mnist    MLP with two hidden layers           >= 89.5 %
  interactions     factorization machine beats the linear model on data made of pairwise interactions

Data are looked for in EBB_SHARED or ../shared/data; absent ones are skipped visibly. One case by name: accuracy.py a9a.
"""
import os
import random
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbtest as t


def train(folder, name, text):
    with open(f"{folder}/{name}.yaml", "w") as f:
        f.write(text.replace("DATA", folder) + f"run: {{dir: {folder}/runs}}\n")
    t.run(["train", f"{folder}/{name}.yaml", "--quiet"], timeout=1500)
    epochs = [m for m in t.metrics(f"{folder}/runs/{name}") if m["kind"] == "epoch"]
    return epochs[-1]


def pack_pair(folder, first, second, options=()):
    paths = [t.shared(first), t.shared(second)]
    if not all(paths):
        print(f"SKIPPED: no real data {first} here")
        sys.exit(t.SKIP)
    t.run(["pack", paths[0], f"{folder}/train", *options])
    t.run(["pack", paths[1], f"{folder}/test", "--like", f"{folder}/train", *[o for o in options if "=" not in str(o)]])


def at_least(what, got, want):
    print(f"{what}: {got:.4f}, wanted at least {want:.4f}")
    if not got >= want:
        t.fail(what)


def a9a(folder):
    pack_pair(folder, "a9a/a9a", "a9a/a9a.t")
    got = train(folder, "a9a", "data: {train: DATA/train, valid: DATA/test}\nmodel: {layers: [{linear: {}}]}\n"
                "train: {epochs: 10, batch: 384, optimizer: {adagrad: {lr: 0.1}}}\n")
    at_least("a9a accuracy", got["valid_accuracy"], 0.848)
    at_least("a9a AUC", got["valid_auc"], 0.90)


def dna(folder):
    pack_pair(folder, "dna/dna.scale", "dna/dna.scale.t")
    got = train(folder, "dna", "data: {train: DATA/train, valid: DATA/test}\nmodel: {layers: [{linear: {}}]}\n"
                "train: {epochs: 30, batch: 96, optimizer: {adagrad: {lr: 0.1, l2: 1.0e-3}}}\n")
    at_least("dna accuracy", got["valid_accuracy"], 0.9494 - 0.005)


def fashion(folder):
    files = [t.shared(f"fashion-mnist/{n}-ubyte.gz") for n in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")]
    if not all(files):
        print("SKIPPED: no real data fashion-mnist here")
        sys.exit(t.SKIP)
    t.run(["pack", files[0], f"{folder}/train", "--target", files[1]])
    t.run(["pack", files[2], f"{folder}/test", "--target", files[3], "--like", f"{folder}/train"])
    got = train(folder, "fashion", """
data: {train: DATA/train, valid: DATA/test, scale: 0.00392157}
lanes: 4
model:
  layers:
    - linear: {out: 512}
    - relu: {}
    - dropout: {p: 0.2}
    - linear: {out: 256}
    - relu: {}
    - dropout: {p: 0.2}
    - linear: {}
train: {epochs: 18, batch: 256, optimizer: {adam: {lr: 0.001}}, schedule: {cosine: {warmup: 0.05}}}
""")
    at_least("Fashion-MNIST accuracy", got["valid_accuracy"], 0.895)


def interactions(folder):
    """Labels made of products of pairs of 40 binary features: nothing for a linear model to find."""
    rng = random.Random(3)
    factor = [[rng.gauss(0, 1) for _ in range(3)] for _ in range(40)]
    for part, rows in (("train", 12000), ("test", 3000)):
        with open(f"{folder}/{part}.svm", "w") as f:
            for _ in range(rows):
                on = sorted(rng.sample(range(40), 6))
                score = sum(sum(a * b for a, b in zip(factor[i], factor[j])) for i in on for j in on if i < j)
                f.write(f"{1 if score > 0 else -1} " + " ".join(f"{c + 1}:1" for c in on) + "\n")
    t.run(["pack", f"{folder}/train.svm", f"{folder}/train"])
    t.run(["pack", f"{folder}/test.svm", f"{folder}/test", "--like", f"{folder}/train"])
    text = ("data: {train: DATA/train, valid: DATA/test}\nmodel: {layers: [LAYER]}\n"
            "train: {epochs: 30, batch: 240, optimizer: {adam: {lr: 0.01}}}\n")
    linear = train(folder, "linear", text.replace("LAYER", "{linear: {}}"))["valid_accuracy"]
    fm = train(folder, "fm", text.replace("LAYER", "{fm: {rank: 4}}"))["valid_accuracy"]
    print(f"interactions: linear {linear:.4f}, factorization machine {fm:.4f}")
    at_least("factorization machine over linear model", fm - linear, 0.1)


CASES = {"a9a": a9a, "dna": dna, "fashion": fashion, "interactions": interactions}


def main():
    names = sys.argv[1:] or list(CASES)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="ebb-accuracy-") as folder:
            CASES[name](folder)
    print(f"{len(names)} passed, 0 failed")


if __name__ == "__main__":
    main()
