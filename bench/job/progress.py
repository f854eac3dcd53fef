"""How a job tells how far it is: one line of its output, which the host turns into a bar.

The line is ``progress DONE TOTAL what is being done``; all other output is the log's.
"""

from __future__ import annotations


def report(done: int, total: int, what: str) -> None:
    """Say that ``done`` of ``total`` steps are over and ``what`` is next."""
    print(f"progress {done} {total} {what}", flush=True)
