"""A recorded run repeated: where it can run, whether it may, and how it compares with the record.

The spec is the record's own. What may differ is the place; every fact in which it does is named,
and the ratios are printed all the same, since they are what one wants to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.errors import JobFailed, UsageFault
from bench.host import runs, weights
from bench.host.history import compare as comparing
from bench.host.history import identity
from bench.host.history.compare import Comparison
from bench.host.history.identity import Difference
from bench.host.supply.obtain import Obtained
from bench.record import JobSpec, Parity, RunRecord

# What makes the timings of two runs of one spec those of two machines.
PLACE = ("machine", "driver", "threads")


@dataclass(frozen=True)
class ParityRow:
    """A backend's parity in the record and in its repetition; None where it has none."""

    backend: str
    base: Parity | None
    new: Parity | None

    @property
    def kept(self) -> bool:
        """Whether a backend that agreed with the reference still does."""
        agreed = self.base is not None and self.base.passed
        return not agreed or (self.new is not None and self.new.passed)


@dataclass(frozen=True)
class Rerun:
    """``image`` is None where both ran in an environment, not in an image.

    ``content`` tells whether the local code and locks are those that the record names; None where
    it names none.
    """

    base: RunRecord
    new: RunRecord
    image: Obtained | None
    content: bool | None
    parity: tuple[ParityRow, ...]
    comparison: Comparison


def record_of(named: str, out: Path) -> RunRecord:
    """The record of a run: by its name under ``out``, its directory, or the file itself.

    Raises:
        UsageFault: there is none, or it cannot be read.
    """
    path = Path(named)
    if path.is_file():
        return runs.read_record(path)
    return identity.read(runs.find(out, named))


def spec_of(record: RunRecord) -> JobSpec:
    """The spec that repeats a run.

    Raises:
        UsageFault: it is no benchmark, measured nothing, or this version cannot run it.
    """
    if record.spec.kind != "bench":
        raise UsageFault(
            f"{record.run_id} is of kind {record.spec.kind}: only a benchmark is run again and "
            "compared",
            hint=f"invoke {record.spec.kind}, with the options in its spec.json",
        )
    if not identity.measured(record):
        raise UsageFault(
            f"{record.run_id} measured nothing that a repetition could be compared with",
            hint="name a run with figures: invoke results",
        )
    try:
        return JobSpec.model_validate(record.spec.model_dump())
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageFault(
            f"this version cannot run the spec of {record.run_id}: {first['msg']}",
            hint="check out the commit that the record names: invoke show RUN",
        ) from error


def inputs_of(
    spec: JobSpec, named: str | None, out: Path, environ: dict[str, str]
) -> dict[str, Path]:
    """What lies beside the spec: its checkpoint, from where the record says or as ``named``.

    Raises:
        UsageFault: it is not to be had, or is another one than the record's.
    """
    if spec.weights is None:
        if named is not None:
            raise UsageFault("the run had seeded weights", hint="leave --weights out")
        return {}
    got = weights.resolve(named or spec.weights.source.removeprefix("run "), out, environ)
    if got.sha256 != spec.weights.sha256:
        raise UsageFault(
            f"{got.source} is not the checkpoint of the record: its sha256 is {got.sha256}, the "
            f"record's {spec.weights.sha256}",
            hint="name the right one: --weights DIR",
        )
    return {"weights": got.directory}


def judge(base: RunRecord, new: RunRecord, image: Obtained | None, content: bool | None) -> Rerun:
    """The repetition beside what it repeats.

    Raises:
        UsageFault: it ended before it said where it ran.
    """
    made = comparing.compare(base, new, allow=identity.LIKE)
    if image is not None and image.same:  # another engine may call the same image otherwise
        kept = tuple(one for one in made.differing if one.key != "image")
        made = Comparison(
            made.base, made.new, made.rows, kept, made.lost, made.notes, made.least_effect
        )
    ours = {row.backend: row.parity for row in base.results}
    theirs = {row.backend: row.parity for row in new.results}
    parity = tuple(ParityRow(name, ours[name], theirs.get(name)) for name in ours)
    return Rerun(base, new, image, content, parity, made)


def demand(rerun: Rerun) -> None:
    """Accept a repetition in which every backend still agrees with the reference.

    Raises:
        JobFailed: one does not; slower or faster is no failure here.
    """
    lost = [row.backend for row in rerun.parity if not row.kept]
    if lost:
        raise JobFailed(
            f"parity was not reached again by {', '.join(lost)}",
            hint=f"invoke show {rerun.new.run_id} says why",
        )


def lines(rerun: Rerun) -> list[str]:
    """What came of it, in words, but for the table of timings."""
    return [_place(rerun), *_parity(rerun.parity), _timings(rerun.comparison.differing)]


def data(rerun: Rerun, timings: dict[str, Any]) -> dict[str, Any]:
    """For programs; ``timings`` is the comparison's own data."""
    image = rerun.image
    return {
        "base": rerun.base.run_id,
        "new": rerun.new.run_id,
        "image": image and {**_named(image), "how": image.how, "same": image.same},
        "content_same": rerun.content,
        "parity": [
            {
                "backend": row.backend,
                "kept": row.kept,
                "base": row.base.model_dump() if row.base else None,
                "new": row.new.model_dump() if row.new else None,
            }
            for row in rerun.parity
        ],
        "timings": timings,
    }


def _named(image: Obtained) -> dict[str, str | None]:
    return {"tag": image.image.tag, "id": image.image.id, "digest": image.image.digest}


def _place(rerun: Rerun) -> str:
    if rerun.image is not None:
        told = f"{rerun.image.image.tag} {rerun.image.image.digest or rerun.image.image.id}"
        if rerun.image.same:
            return f"image: the record's own, {told} ({rerun.image.how})"
        return f"image: NOT the record's, as allowed: {told} ({rerun.image.how})"
    told = {
        True: "the code and locks are the record's",
        False: "the code or the locks are NOT the record's",
        None: "the record does not name the code and locks that ran",
    }[rerun.content]
    return f"environment: {told}"


def _parity(rows: Sequence[ParityRow]) -> list[str]:
    agreed = [row for row in rows if row.base is not None and row.base.passed]
    kept = [row for row in agreed if row.kept]
    said = [f"parity: {len(kept)} of {len(agreed)} backends that agreed with the reference do so"]
    for row in agreed:
        assert row.base is not None
        before, after = _error(row.base), _error(row.new)
        said.append(f"  {row.backend}: largest error {before} in the record, {after} now")
    return said


def _error(parity: Parity | None) -> str:
    if parity is None:
        return "no figure"
    error = "no number" if parity.max_abs_err is None else f"{parity.max_abs_err:.3g}"
    return error if parity.passed else f"{error} (FAILED)"


def _timings(differing: Sequence[Difference]) -> str:
    unlike = [one.key for one in differing if one.refused]
    if not unlike:
        return "timings: of like runs, so that a difference is the code's or the moment's"
    if any(key in PLACE for key in unlike):
        return f"timings: of unlike machines ({', '.join(unlike)}): the ratios say how they differ"
    return f"timings: of unlike runs ({', '.join(unlike)}): a ratio does not say which it is from"
