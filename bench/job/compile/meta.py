"""TVM's MetaSchedule, as far as this project uses it: candidates, built and run one by one.

Its own task scheduler commits a batch when all of it has run, and counts what did not build as
tried. Here every trial is handed out as soon as it has run, with what became of it, so that a
process that dies loses none.
"""

from __future__ import annotations

import importlib.util
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.job.compile import names
from bench.job.compile.tasks import Task
from bench.job.tune import building
from bench.tuning import VALID

# TVM's 30 s are not enough on a small machine, and what is not built in time counts as tried.
BUILD_TIMEOUT_S = 300.0
RUN_TIMEOUT_S = 60.0
_POPULATION = 512  # TVM's own, for batches of 16 and more
_REPEATS, _LEAST_MS = 3, 50


@dataclass(frozen=True)
class Tried:
    """What became of a candidate; ``ms`` is the median of its runs."""

    outcome: str
    ms: float | None = None
    said: str | None = None


class Search:
    """Searches for schedules of tasks on one target, with one database and one cost model."""

    def __init__(self, directory: Path, target: Any, cores: int, batch: int, seed: int) -> None:
        self._ms = names.find("meta_schedule")
        self.target, self._cores, self._batch, self._seed = target, cores, batch, seed
        self._database = self._ms.database.JSONDatabase(work_dir=str(directory))
        self.cost_model = "xgboost" if importlib.util.find_spec("xgboost") else "random"
        kind = {"xgboost": "xgb"}.get(self.cost_model, self.cost_model)
        self._cost = self._ms.CostModel.create(kind, num_tuning_cores=cores)
        self._builder = self._ms.builder.LocalBuilder(
            max_workers=cores, timeout_sec=BUILD_TIMEOUT_S, f_build=building.build
        )
        self._runner = self._ms.runner.LocalRunner(
            timeout_sec=RUN_TIMEOUT_S,
            evaluator_config=self._ms.runner.EvaluatorConfig(
                number=1, repeat=_REPEATS, min_repeat_ms=_LEAST_MS
            ),
        )
        self._contexts: dict[str, Any] = {}

    def best(self, task: Task) -> tuple[float, Any] | None:
        """The fastest record of ``task``: milliseconds, and its trace as JSON; None without one."""
        if not self._database.has_workload(task.mod):
            return None
        found = self._database.get_top_k(self._database.commit_workload(task.mod), 1)
        if not found:
            return None
        return _median_ms(found[0].run_secs), found[0].as_json()[0]

    def turn(self, task: Task) -> Iterator[Tried]:
        """A batch of candidates of ``task``, each as soon as it has run; none where all are tried.

        What is not taken of it is not run, and not counted.
        """
        context = self._context(task)
        candidates = context.generate_measure_candidates()
        if not candidates:
            return
        inputs = [self._ms.builder.BuilderInput(one.sch.mod, self.target) for one in candidates]
        results: list[Any] = []
        built = self._builder.build(inputs)
        try:
            for candidate, one in zip(candidates, built, strict=True):
                tried, result = self._run(task, candidate, one)
                results.append(result)
                yield tried
            context.notify_runner_results(candidates, results)
            self._cost.update(context, candidates, results)
        finally:
            # Best effort: all of it lies in the job's scratch, which the host removes.
            for one in built:
                if one.artifact_path is not None:
                    shutil.rmtree(Path(str(one.artifact_path)).parent, ignore_errors=True)

    def _run(self, task: Task, candidate: Any, built: Any) -> tuple[Tried, Any]:
        if built.error_msg is not None:
            said = str(built.error_msg)
            return Tried(_failed("build", said), said=said), self._ms.runner.RunnerResult(
                None, said
            )
        given = self._ms.runner.RunnerInput(built.artifact_path, "cpu", candidate.args_info)
        result = self._runner.run([given])[0].result()
        if result.error_msg is not None or not result.run_secs:
            said = str(result.error_msg)
            return Tried(_failed("run", said), said=said), result
        workload = self._database.commit_workload(task.mod)
        record = self._ms.database.TuningRecord(
            candidate.sch.trace, workload, result.run_secs, self.target, candidate.args_info
        )
        self._database.commit_tuning_record(record)
        return Tried(VALID, _median_ms(result.run_secs)), result

    def _context(self, task: Task) -> Any:
        known = self._contexts.get(task.key)
        if known is not None:
            return known
        # Plain LLVM rules: those for VNNI are for 8-bit integers, and everything here is float32.
        space = self._ms.space_generator.PostOrderApply(
            sch_rules=self._ms.schedule_rule.ScheduleRule.create("llvm"),
            postprocs=self._ms.postproc.Postproc.create("llvm"),
            mutator_probs=self._ms.mutator.Mutator.create("llvm"),
        )
        strategy = self._ms.search_strategy.EvolutionarySearch(
            population_size=min(_POPULATION, 32 * self._batch),
            init_min_unmeasured=min(50, 8 * self._batch),
        )
        context = self._ms.TuneContext(
            task.mod,
            target=self.target,
            space_generator=space,
            search_strategy=strategy,
            task_name=task.name,
            num_threads=self._cores,
            rand_state=self._seed + 1,  # 0 is none
        )
        context.pre_tuning(2**31 - 1, self._batch, None, self._database, self._cost)
        self._learn(task, context)
        self._contexts[task.key] = context
        return context

    def _learn(self, task: Task, context: Any) -> None:
        """Teach the cost model what earlier processes measured of ``task``."""
        if not self._database.has_workload(task.mod):
            return
        records = self._database.get_top_k(self._database.commit_workload(task.mod), 2**20)
        self._cost.update(
            context,
            [record.as_measure_candidate() for record in records],
            [self._ms.runner.RunnerResult(list(record.run_secs), None) for record in records],
        )


def _failed(stage: str, said: str) -> str:
    return f"{stage} time-out" if "Timeout, killed after" in said else f"{stage} error"


def _median_ms(seconds: Any) -> float:
    return statistics.median(float(one) for one in seconds) * 1e3
