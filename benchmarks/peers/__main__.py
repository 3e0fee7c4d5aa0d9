"""One contestant in a process of its own: `python -m benchmarks.peers NAME --plan FILE`, as `time_to_quality` does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pydantic import TypeAdapter

from benchmarks.peers.contest import Plan, compete, run_ours
from benchmarks.peers.registry import NEEDS
from fromnoise.errors import FromNoiseError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help=f"{', '.join(NEEDS)}; any other name is fromnoise as it now is")
    parser.add_argument("--plan", type=Path, required=True, help="JSON of a benchmarks.peers.contest.Plan")
    options = parser.parse_args()
    plan = TypeAdapter(Plan).validate_json(options.plan.read_text())
    serve = compete if options.name in NEEDS else run_ours
    try:
        serve(options.name, plan, say=lambda line: print(f"{options.name}: {line}", flush=True))
    except FromNoiseError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
