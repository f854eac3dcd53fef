"""The step of a tuning job: keeps a tuner at work until its time is up, and says what came of it.

The tuner is a process of its own (``search``). One that dies is told of and followed by another,
which goes on from the database. A task that it died of twice is given up.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from bench.errors import JobFailed, UsageFault
from bench.job import artefacts, death, stopping
from bench.job.stopping import Stop
from bench.job.tune import database, search
from bench.job.tune.search import Orders
from bench.tuning import (
    TUNING_DIR,
    VALID,
    Death,
    Stopped,
    Trial,
    TunedTask,
    TuneSpec,
    Tuning,
    best_of,
    counted,
    is_flat,
    ranked,
    series,
)

_POLL_S = 0.2
_STRIKES = 2  # deaths in one task, after which it is left alone
_IDLE_DEATHS = 3  # deaths in a row without a trial, after which it is no task's fault
STOPPED: TypeAdapter[Stopped] = TypeAdapter(Stopped)


def run(spec: TuneSpec, directory: Path) -> Tuning:
    """Tune as ``spec`` says; what is found goes into the artefact store.

    SIGINT and SIGTERM end it: every trial that had run is kept. ``directory`` is the job's
    scratch, for the tuner's orders and what it builds.

    Raises:
        UsageFault: another run tunes for this TVM and target, or the request cannot be met.
        JobFailed: the tuner dies before it has begun.
    """
    for needed in ("cloudpickle", "psutil"):  # MetaSchedule's, which TVM's wheel does not ask for
        if importlib.util.find_spec(needed) is None:
            raise UsageFault(
                f"MetaSchedule needs {needed}, which is not installed here",
                hint="make setup; or build the image anew: invoke build-image",
            )
    scratch = directory / TUNING_DIR
    scratch.mkdir(exist_ok=True)
    with stopping.on_signals() as stop:
        return _Supervisor(spec, scratch, stop).run()


class _Supervisor:
    def __init__(self, spec: TuneSpec, scratch: Path, stop: Stop) -> None:
        self.spec, self.scratch, self.stop = spec, scratch, stop
        self.began = time.monotonic()
        self.deaths: list[Death] = []
        self.plan: dict[str, Any] = {}
        self.before = 0  # trials of earlier runs

    def run(self) -> Tuning:
        where = self._database()
        with where.lock():
            stopped, reason = self._until_over()
        return self._tuning(stopped, reason)

    def _database(self) -> database.Database:
        from bench.job.backends.tvm import target_of
        from bench.job.compile import build

        target = target_of(self.spec.compiled())
        return database.of(artefacts.store_root(), build.tvm_build_id(), target.to_dict())

    def _until_over(self) -> tuple[Stopped, str | None]:
        idle = 0
        while True:
            had = len(self._trials())
            code = self._tuner()
            self._read_plan()
            if not self.plan and code is not None:
                fault = death.of(code)
                raise JobFailed(f"the tuner: {fault.message}", hint=fault.hint)
            if code is None:
                return "interrupted", f"stopped by {self.stop.by}"
            ended = self.scratch / search.ENDED
            if code == 0 and ended.is_file():
                return STOPPED.validate_python(ended.read_text()), None
            idle = 0 if len(self._trials()) > had else idle + 1
            self._died(code)
            if idle >= _IDLE_DEATHS:
                return "tuner died", f"{idle} times in a row, without a trial between"
            if self._left_s() <= 0:
                return "budget", None

    def _tuner(self) -> int | None:
        """One process of the tuner: its exit code; None where the job is asked to stop."""
        trials = None
        if self.spec.max_trials is not None:
            trials = max(0, self.spec.max_trials - (len(self._trials()) - self.before))
        (self.scratch / search.ENDED).unlink(missing_ok=True)
        orders, spec = self.scratch / "orders.json", self.scratch / "spec.json"
        Orders(max(self._left_s(), 0.0), trials, self._given_up()).write(orders)
        spec.write_text(self.spec.model_dump_json())
        temporary = self.scratch / "tmp"  # for what it builds: a killed one leaves that
        temporary.mkdir(exist_ok=True)
        child = subprocess.Popen(
            [sys.executable, "-m", "bench.job.tune.search", str(spec), str(orders)],
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        try:
            while child.poll() is None:
                if self.stop.requested:
                    return None
                time.sleep(_POLL_S)
            return child.returncode
        finally:
            child.kill()  # at any moment: what it measured is in the database
            child.wait()

    def _died(self, code: int) -> None:
        at = self.scratch / search.AT
        task = at.read_text() if at.is_file() else None
        trials = len(self._trials())
        reason = death.of(code).message
        self.deaths.append(Death(reason=reason, task=task, trials=trials))
        print(f"the tuner died: {reason}; {trials} trials are kept, it goes on", flush=True)

    def _given_up(self) -> tuple[str, ...]:
        died_at = Counter(death.task for death in self.deaths if death.task is not None)
        return tuple(key for key, times in died_at.items() if times >= _STRIKES)

    def _left_s(self) -> float:
        return self.spec.budget_s - (time.monotonic() - self.began)

    def _read_plan(self) -> None:
        path = self.scratch / search.PLAN
        if path.is_file():
            first = not self.plan
            self.plan = json.loads(path.read_text())
            if first:
                self.before = int(self.plan["trials_before"])

    def _trials(self) -> list[Trial]:
        return database.read_trials(Path(self.plan["log"])) if self.plan else []

    def _tuning(self, stopped: Stopped, reason: str | None) -> Tuning:
        if not self.plan:  # stopped before it had begun
            raise JobFailed(
                "stopped before anything was measured", hint="the same command begins anew"
            )
        trials = self._trials()
        programs = {name: Path(path) for name, path in self.plan["programs"].items()}
        bests = {name: database.read_best(path) for name, path in programs.items()}
        given_up = self._given_up()
        tasks = []
        for told in self.plan["rows"]:
            row = TunedTask.model_validate(told)
            mine = [trial for trial in trials if trial.task == row.key]
            best = bests[row.program].tasks.get(row.key, {})
            found = {
                "trials": len(mine),
                "valid": counted(mine)[VALID],
                "search_ms": best_of(mine),
                "hand_ms": best.get("hand_ms"),
                "tuned_ms": best.get("tuned_ms"),
                "used": "tuned" if best.get("trace") else "hand-written",
                "flat": is_flat(mine, self.spec.flat_trials),
                "given_up": row.key in given_up,
            }
            tasks.append(row.model_copy(update=found))
        tasks = ranked(tasks)
        hand = [task.weight * task.hand_ms for task in tasks if task.hand_ms is not None]
        digests = [best.digest for best in bests.values() if best.digest is not None]
        return Tuning(
            tvm=self.plan["tvm"],
            target=self.plan["target"],
            cost_model=self.plan["cost_model"],
            database=Path(self.plan["database"]).name,
            digest=",".join(digests) if len(digests) == len(bests) else None,
            stopped=stopped,
            reason=reason,
            budget_s=self.spec.budget_s,
            elapsed_s=time.monotonic() - self.began,
            trials_before=self.before,
            counts=counted(trials),
            tasks=tasks,
            kept=self.plan["kept"],
            series=series(tasks, trials),
            deaths=self.deaths,
            hand_ms=sum(hand) if tasks and len(hand) == len(tasks) else None,
        )
