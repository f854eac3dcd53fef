"""The tuner's own process: ``python -m bench.job.tune.search SPEC ORDERS``.

It can be killed at any moment: every trial is in the database before the next one begins, and the
next process goes on from there. Into the directory of ORDERS it writes ``plan.json`` (what it is
about), ``at`` (the task it is at) and, at its own end, ``ended`` (why).
"""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import jobs
from bench.job import artefacts, driver, models, modes, progress
from bench.job.tune import database
from bench.tuning import Stopped, Trial, TunedTask, TuneSpec, best_of, is_flat, ranked

PLAN, AT, ENDED = "plan.json", "at", "ended"
MARGIN = 0.03  # so much faster a tuned kernel must measure: less may be noise


@dataclass(frozen=True)
class Orders:
    """What one process of the tuner may do. ``given_up`` are tasks to leave alone."""

    seconds: float
    trials: int | None
    given_up: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(vars(self)))

    @classmethod
    def read(cls, path: Path) -> Orders:
        said = json.loads(path.read_text())
        return cls(said["seconds"], said["trials"], tuple(said["given_up"]))


class Tuner:
    """One process's work on a spec's tasks."""

    def __init__(self, spec: TuneSpec, orders: Orders, scratch: Path) -> None:
        self.began = time.monotonic()
        driver.ensure()  # before anything imports tvm
        from bench.job.backends import tvm as backend
        from bench.job.compile import api, build, importer, meta, pipelines, tasks

        self.spec, self.orders, self.scratch = spec, orders, scratch
        compiled = spec.compiled()
        self.target = backend.target_of(compiled)
        api.plan_threads(self.target.cores)
        self.database = database.of(
            artefacts.store_root(), build.tvm_build_id(), self.target.to_dict()
        )
        self.database.prepare()
        self.tasks: dict[str, tasks.Task] = {}
        self.rows: list[TunedTask] = []
        kept: list[str] = []
        self.programs: dict[str, Path] = {}
        for name, program in modes.programs(compiled, models.build(compiled)).items():
            key = database.program_key(backend.program_parts(compiled, name, program))
            self.programs[name] = self.database.program(key)
            imported = importer.import_module(program.module, program.example)
            mod = pipelines.to_kernels(imported.mod, self.target)
            found, others = tasks.extract(mod, self.target)
            kept += others
            self.tasks |= {task.key: task for task in found}
            self.rows += [_row(task, name) for task in found]
        self.log = self.database.log([path.name for path in self.programs.values()])
        self.log.mkdir(parents=True, exist_ok=True)
        database.repair(self.log / database.TRIALS)  # or the next trial would end half a line
        self.trials = database.read_trials(self.log)
        self.before_s = database.spent_s(self.trials)
        self.done = 0  # trials of this process
        self.sources = build.sources_digest()  # of the hand-written kernels, for one
        self.best: dict[str, dict[str, Any]] = {}
        for directory in self.programs.values():
            self.best |= {k: dict(v) for k, v in database.read_best(directory).tasks.items()}
        self.search = meta.Search(
            self.database.path, self.target.tvm(), self.target.cores, spec.batch, spec.seed
        )
        plan = {
            "tvm": build.tvm_build_id(),
            "target": self.target.to_dict(),
            "cost_model": self.search.cost_model,
            "database": str(self.database.path),
            "log": str(self.log),
            "programs": {name: str(path) for name, path in self.programs.items()},
            "rows": [row.model_dump() for row in self.rows],
            "kept": sorted(set(kept)),
            "trials_before": len(self.trials),
        }
        partial = scratch / f"{PLAN}.partial"
        partial.write_text(json.dumps(plan))
        partial.replace(scratch / PLAN)

    def run(self) -> Stopped:
        """Compare, then take turns: the tasks in their order, those that are flat left out."""
        order = ranked({row.key: row for row in self.rows}.values())
        for row in order:
            self._at(row)
            if row.key not in self.orders.given_up:
                self._compare(row)
        self._write_best()  # a program may share all its kernels with another one
        if not order:
            return "nothing to tune"
        exhausted: set[str] = set(self.orders.given_up)
        while True:
            live = [row for row in order if row.key not in exhausted and not self._flat(row.key)]
            if not live:
                return "flat"
            for row in live:
                stopped = self._stopped()
                if stopped:
                    return stopped
                self._at(row)
                if not self._turn(row):
                    exhausted.add(row.key)
                self._compare(row)

    def _stopped(self) -> Stopped | None:
        if self.orders.trials is not None and self.done >= self.orders.trials:
            return "trials"
        return "budget" if self._elapsed_s() >= self.orders.seconds else None

    def _flat(self, key: str) -> bool:
        return is_flat([one for one in self.trials if one.task == key], self.spec.flat_trials)

    def _turn(self, row: TunedTask) -> bool:
        """A batch of trials; whether there was anything left to try."""
        tried = 0
        for one in self.search.turn(self.tasks[row.key]):
            tried += 1
            self.done += 1
            at_s = self.before_s + self._elapsed_s()
            trial = Trial.model_validate(
                {"task": row.key, "outcome": one.outcome, "ms": one.ms, "at_s": at_s}
            )
            database.append_trial(self.log, trial)
            self.trials.append(trial)
            if one.said:
                print(f"{row.name}: {one.outcome}: {_last_line(one.said)}", flush=True)
            best = best_of(t for t in self.trials if t.task == row.key)
            said = f"{row.name}, best {best:.4f} ms" if best is not None else row.name
            budget = max(1, round(self.orders.seconds))
            progress.report(min(budget, round(self._elapsed_s())), budget, said)
            if self._stopped():
                break
        return tried > 0

    def _compare(self, row: TunedTask) -> None:
        """Measure the hand-written kernel of a task, and its best record beside it if it is new."""
        from bench.job.compile import tasks
        from bench.job.tune import compare

        task = self.tasks[row.key]
        found = self.search.best(task)
        known = self.best.get(row.key)
        current = known is not None and known.get("sources") == self.sources
        if known is not None and current and (found is None or known.get("search_ms") == found[0]):
            return
        bench = compare.Bench(task.hand)
        hand = bench.call(task.hand, self.target.tvm())
        if found is None:
            (hand_ms,) = compare.in_turns(hand)
            entry: dict[str, Any] = {"name": row.name, "hand_ms": hand_ms}
        else:
            search_ms, trace = found
            kernel = tasks.scheduled(task.mod, trace, task.hand)
            tuned = bench.call(kernel, self.target.tvm())
            same = compare.agree(bench.output(hand), bench.output(tuned))
            hand_ms, tuned_ms = compare.in_turns(hand, tuned)
            entry = {"name": row.name, "hand_ms": hand_ms, "search_ms": search_ms}
            entry["tuned_ms"] = tuned_ms
            if not same:
                print(f"{row.name}: the tuned kernel computes something else", flush=True)
            elif tuned_ms < hand_ms * (1 - MARGIN):
                entry["trace"] = trace
        self.best[row.key] = {**entry, "sources": self.sources}
        self._write_best()

    def _write_best(self) -> None:
        for name, directory in self.programs.items():
            keys = {row.key for row in self.rows if row.program == name}
            entries = {key: one for key, one in self.best.items() if key in keys}
            database.write_best(directory, entries)

    def _at(self, row: TunedTask) -> None:
        (self.scratch / AT).write_text(row.key)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self.began


def _row(task: Any, program: str) -> TunedTask:
    return TunedTask(
        key=task.key,
        name=task.name,
        program=program,
        product=task.product,
        flops=task.flops,
        weight=task.weight,
    )


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or ["no message"])[-1][:200]


def main(argv: list[str]) -> int:
    spec_path, orders_path = map(Path, argv)
    spec = jobs.read(spec_path)
    assert isinstance(spec, TuneSpec)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the job, which ends this process
    tuner = Tuner(spec, Orders.read(orders_path), orders_path.parent)
    stopped = tuner.run()
    (orders_path.parent / ENDED).write_text(stopped)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
