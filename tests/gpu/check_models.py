#!/usr/bin/env python3
"""check_models.py BACKEND: `ebb check-model` on that backend, beside the CPU, for models of every kind of layer. Skipped where the
backend cannot be opened."""
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbtest as t

SPARSE = ["{layers: [{linear: {out: 8}}, relu, {dropout: {p: 0.3}}, linear]}",
          "{layers: [{linear: {out: 5, bias: false}}, sigmoid, linear]}",
          "{layers: [{embedding: {dim: 6}}, gelu, layer_norm, {linear: {out: 7}}, tanh, linear]}"]
BINARY = ["{loss: binary_cross_entropy, layers: [{fm: {rank: 5}}]}"]
DENSE = ["{layers: [{linear: {out: 33}}, gelu, layer_norm, {dropout: {p: 0.5}}, linear]}"]


def main():
    backend = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="ebb-models-") as folder:
        t.sparse_data(f"{folder}/three.svm", 300, 97, 8, 3, 1)
        t.sparse_data(f"{folder}/two.svm", 300, 97, 8, 2, 1)
        t.dense_data(folder, 300, 19, 4, 2)
        t.run(["pack", f"{folder}/three.svm", f"{folder}/sparse"])
        t.run(["pack", f"{folder}/two.svm", f"{folder}/binary"])
        t.run(["pack", f"{folder}/x.npy", f"{folder}/dense", "--target", f"{folder}/y.npy"])
        for data, models in (("sparse", SPARSE), ("binary", BINARY), ("dense", DENSE)):
            for model in models:
                done = t.run(["check-model", "--data", f"{folder}/{data}", "--model", model, "--backend", backend, "--against", "cpu"],
                             ok=False)
                if done.returncode == 69:
                    print(f"SKIPPED: {done.stderr.strip().splitlines()[-1]}")
                    sys.exit(t.SKIP)
                if done.returncode != 0 or "another backend agrees" not in done.stdout:
                    t.fail(f"{model} on {backend}: exit {done.returncode}\n{done.stdout}{done.stderr}")
                print(f"{data:7} {model}")
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
