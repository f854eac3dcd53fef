"""Another attempt, after a pause that doubles: for what fails only for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from bench.build.fetch.fault import Fault, Passing

LONGEST_PAUSE_S = 60.0

Say = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How often something is tried, and the first pause in seconds; each later one is twice it."""

    attempts: int = 5
    pause_s: float = 2.0

    def run(self, what: str, action: Callable[[int], T], say: Say) -> T:
        """Call ``action`` with the attempt's number, from 1, until it does not raise Passing.

        Raises:
            Fault: what the action raised, or the last attempt's failure with their number.
        """
        attempt = tries = 1
        while True:
            try:
                return action(tries)
            except Passing as fault:
                # An attempt that got further costs nothing: a slow line may cut ten times.
                attempt = 1 if fault.further else attempt + 1
                tries += 1
                if attempt > self.attempts:
                    raise Fault(
                        f"{what}: given up after {self.attempts} attempts: {fault.message}",
                        hint=fault.hint,
                    ) from fault
                pause = min(self.pause_s * 2 ** max(attempt - 2, 0), LONGEST_PAUSE_S)
                say(f"{what}: {fault.message}; attempt {attempt} of {self.attempts} in {pause:g} s")
                time.sleep(pause)
