"""``python -m bench.job SPEC.json``: run one job; what comes of it is written beside the spec."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from bench.job import runner


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.job",
        description="Run one job. On the host, `invoke bench`, `train` and their like write the "
        "spec, call this, and gather what it leaves beside the spec: outcome.json.",
    )
    parser.add_argument("spec", type=Path, help="a spec as JSON (bench/jobs.py)")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _stop)  # so that the running step is ended too
    outcome = runner.run(arguments.spec.resolve())
    return 0 if outcome.fault is None else 1


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
