#!/usr/bin/env python3
"""Sources that fail in every way never cost a deadline and never hold a job up: simulated jobs, planned as the agent plans
them, against every fault of the replay server.

    fail_open.py SIMULATOR [jobs:200] [seed:1]      in full: fail_open.py build/release/tests/fail_open jobs:10000
"""
import concurrent.futures
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import ebbtest
import replay

FAULTS = ["ok", "hang", "drip", "cut", "closed", "zeros", "nulls", "stale", "skewed", "dst", "stuck", "wrongzone", "html", "huge", "redirect",
          "empty", "norows", "short", "e400", "e401", "e500"]
SERVICES = {"neso": "GB", "electricitymaps": "DE", "watttime": "CAISO_NORTH", "casdk": "westeurope"}


def main():
    simulator = os.path.abspath(sys.argv[1])
    options = {"jobs": 200, "seed": 1}
    for word in sys.argv[2:]:
        key, _, value = word.partition(":")
        options[key] = int(value)
    cases = [(source, fault) for fault in FAULTS for source in SERVICES]
    if options["jobs"] < 1000:  # one service a fault, in turn
        cases = [(list(SERVICES)[i % 4], fault) for i, fault in enumerate(FAULTS)]
    share = -(-options["jobs"] // len(cases))
    server = replay.Server()
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        def carry_out(i):
            source, fault = cases[i]
            env = {**os.environ, "EBB_STATE_DIR": f"{folder}/state{i}", "EBB_CARBON_CACHE": f"{folder}/cache{i}",
                   "EBB_CARBON_TOKEN": "user:password"}
            return subprocess.run([simulator, source, SERVICES[source], server.url(fault), str(share), str(options["seed"] + i)],
                                  capture_output=True, text=True, env=env, timeout=600)

        with concurrent.futures.ThreadPoolExecutor(4) as pool:  # most of the time they wait for an answer
            for (source, fault), got in zip(cases, pool.map(carry_out, range(len(cases)))):
                print(f"{source:16} {fault:10} {got.stdout.strip().splitlines()[-1] if got.stdout else got.stderr}")
                if got.returncode != 0:
                    bad += 1
                    print(got.stdout, got.stderr)
    server.stop()
    print(f"{share * len(cases)} jobs, {len(cases)} sources that fail")
    if bad:
        ebbtest.fail(f"{bad} of them cost deadlines")


if __name__ == "__main__":
    main()
