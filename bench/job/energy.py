"""A meter around the timed calls of one process: the energy counters before and after them."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.job import nvml, system
from bench.roofline import Energy
from bench.system import SystemState, energy_j

# The processor's counters move every millisecond, a GPU's every tenth of a second or so. Of a
# shorter stretch they say too little, and it is left out.
LEAST_S = 0.5


class Meter:
    """Reads the counters at ``start`` and at ``stop``, which is nothing but a few files.

    ``close`` lets the driver's library go, which is kept open between the two: opening it takes
    as long as many a call, and would be counted with them.
    """

    def __init__(
        self,
        read: Callable[[], SystemState] = system.read_energy,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._read = read
        self._clock = clock
        self._close = nvml.keep_open()
        self._before: SystemState | None = None
        self._began = 0.0

    def start(self) -> None:
        """From here on."""
        self._before = self._read()
        self._began = self._clock()

    def stop(self, calls: int, tokens_a_call: int) -> Energy | None:
        """What ``calls`` calls since ``start`` used; None where nothing tells, or not enough."""
        took_s = self._clock() - self._began
        after = self._read()
        if self._before is None or took_s < LEAST_S or calls < 1:
            return None
        used = energy_j(self._before, after)
        return Energy.of(used, calls, tokens_a_call) if used else None

    def close(self) -> None:
        """Done with."""
        self._close()
