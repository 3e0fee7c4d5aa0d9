"""How well `plan` predicts `train`: rate, memory and the end of the budget, each in a process of its own.

    python -m benchmarks.foresight --budget 5m emoji:32 data/fashion:28 data/clipart:64

A set is DATA:SIZE.  Nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fromnoise as fn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="DATA:SIZE")
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(CHILDREN[options.child](*split(options.sets[0]), options.budget)))
        return
    print(f"{'set':24} {'':7} {'examples/s':>11} {'MB':>8} {'MB of data':>11} {'MB on device':>13} {'seconds':>8}")
    for one in options.sets:
        for child in CHILDREN:
            begun = time.perf_counter()
            command = [sys.executable, "-m", "benchmarks.foresight", "--budget", options.budget, "--child", child, one]
            said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found = json.loads(said.splitlines()[-1])
            process, data, device = (found[name] or 0.0 for name in ("process", "data", "device"))
            print(
                f"{one[-24:]:24} {child:7} {found['rate']:11.1f} {process:8.0f} {data:11.1f} {device:13.0f} "
                f"{time.perf_counter() - begun:8.1f}",
                flush=True,
            )


def split(one: str) -> tuple[str, int]:
    data, _, size = one.rpartition(":")
    return data, int(size)


def planned(data: str, size: int, budget: str) -> dict[str, float | None]:
    forecast = fn.plan(data, budget=budget, size=size)
    memory = forecast.memory
    return {"rate": forecast.run.rate, "process": memory.process, "data": memory.data, "device": memory.device}


def trained(data: str, size: int, budget: str) -> dict[str, float | None]:
    with tempfile.TemporaryDirectory() as folder:
        used = fn.train(data, budget=budget, size=size, out=Path(folder) / "run").folder.read_facts()["used"]
    return {"rate": used["examples"] / used["seconds"], **used["peak_memory"]}


CHILDREN = {"plan": planned, "train": trained}

if __name__ == "__main__":
    main()
