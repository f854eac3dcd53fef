"""A process that ended otherwise than by its own report: in words, and what to do about it."""

from __future__ import annotations

import signal

from bench.record import Fault

MEMORY = (
    "a smaller --model or --batch-size, or more memory: a container has what --limits memory= "
    "leaves it, Docker Desktop and WSL2 what their virtual machine has (docs/wsl2.md)"
)
_LOG = "what it said last is in the log (job.log in the run's directory)"


def of(code: int) -> Fault:
    """The fault of a process whose exit code is ``code``, a negative one being a signal."""
    if code >= 0:
        return Fault(message=f"the process ended with exit code {code}", hint=_LOG)
    if code == -signal.SIGKILL:
        return Fault(
            message="the process was killed by SIGKILL (out of memory?)",
            hint=f"`dmesg` says `Killed process` where the kernel did it; then {MEMORY}",
        )
    return Fault(message=f"the process was killed by {signal.Signals(-code).name}", hint=_LOG)
