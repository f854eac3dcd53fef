"""Every failure a user can expect, as one family.

    BenchError             message, hint, exit code; shown as ``error: …`` and ``hint: …``
    ├── UsageFault         the request cannot be met as it stands: bad input or environment (2)
    │   └── NotHere        a backend lacks something: its row is skipped, those beside it run
    └── JobFailed          the job was started and did not succeed (1)

Only tasks.py turns these into an exit. Anything else that is raised is a defect of ours.
"""

from __future__ import annotations


class BenchError(Exception):
    """An expected failure: what happened, and what the user can do about it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageFault(BenchError):
    """The request or the environment is wrong: nothing was started, nothing is left behind."""

    exit_code = 2


class NotHere(UsageFault):
    """What a backend needs is not here: of a run of several its row is skipped, with the reason."""


class JobFailed(BenchError):
    """The work was started and failed; what it left is kept with its reason."""

    exit_code = 1
