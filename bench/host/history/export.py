"""Runs for other tools: pyperf's JSON, CSV and Parquet of every sample, llama-bench's Markdown."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from bench.catalog import DECODE_STEPS, BertConfig, Geometry
from bench.errors import UsageFault
from bench.host.history import identity, series
from bench.host.history.series import Series
from bench.host.history.wording import code, markdown
from bench.host.report import plain
from bench.record import RunRecord

Value = str | int | float | None

# One line a sample; the unit is in the name. Parquet takes the same columns, typed.
COLUMNS: dict[str, type[str] | type[int] | type[float]] = {
    "run": str,
    "model": str,
    "weights": str,
    "mode": str,
    "device": str,
    "batch_size": int,
    "seq_len": int,
    "dtype": str,
    "threads": int,
    "backend": str,
    "metric": str,
    "sample": int,
    "process": int,
    "order": int,
    "milliseconds": float,
    "machine": str,
    "image": str,
    "tvm": str,
    "git_commit": str,
}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for one
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_PARQUET_ROWS = 100_000  # in memory at a time


def samples(records: Iterable[RunRecord]) -> Iterator[dict[str, Value]]:
    """Every sample of every run, by the names of ``COLUMNS``, in the order taken."""
    for record in records:
        spec = record.spec
        for one in series.of(record):
            shared: dict[str, Value] = {
                "run": record.run_id,
                "model": one.result.model,
                "weights": spec.weights.sha256 if spec.weights else None,
                "mode": one.result.mode,
                "device": one.result.device,
                "batch_size": one.result.batch_size,
                "seq_len": one.result.seq_len,
                "dtype": one.result.dtype,
                "threads": one.result.threads,
                "backend": one.backend,
                "metric": one.metric,
                "machine": identity.machine(record),
                "image": record.image.tag if record.image else None,
                "tvm": identity.tvm(record),
                "git_commit": record.environment.git_commit if record.environment else None,
            }
            for index, milliseconds in enumerate(one.samples):
                taken = {
                    **shared,
                    "sample": index,
                    "process": one.process[index] if one.process else None,
                    "order": one.order[index] if one.order else None,
                    "milliseconds": milliseconds,
                }
                yield {name: taken[name] for name in COLUMNS}


def write_csv(records: Iterable[RunRecord], stream: BinaryIO) -> None:
    """Comma-separated, UTF-8, with a heading. A text that a spreadsheet would run is quoted."""
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in samples(records):
        writer.writerow([_cell(value) for value in row.values()])
    text.detach()


def write_parquet(records: Iterable[RunRecord], stream: BinaryIO) -> None:
    """Apache Parquet; what is missing is null.

    Raises:
        UsageFault: a number of a record is beyond 64 bits.
    """
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    with parquet.ParquetWriter(stream, schema) as writer:
        for batch in _batches(samples(records)):
            try:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
            except (OverflowError, pyarrow.ArrowInvalid) as error:
                raise UsageFault(
                    f"a number is too large for Parquet: {error}", hint="export it as csv"
                ) from error


def write_pyperf(records: Iterable[RunRecord], stream: BinaryIO) -> None:
    """pyperf's JSON: a benchmark for each backend and metric, a run for each round, seconds.

    Names say what was measured, so that `pyperf compare_to` pairs only what is alike.

    Raises:
        UsageFault: there is nothing measured, a sample is 0, or two runs measured the same,
            which pyperf would take for one benchmark.
    """
    import pyperf  # type: ignore[import-untyped]

    found: dict[str, tuple[str, object]] = {}
    for record in records:
        for one in series.of(record):
            name = _benchmark_name(one)
            if name in found:
                raise UsageFault(
                    f"{found[name][0]} and {record.run_id} both measured '{name}'",
                    hint="export each to a file of its own; `pyperf compare_to` takes two files",
                )
            found[name] = (record.run_id, pyperf.Benchmark(_pyperf_runs(record, one, name)))
    if not found:
        raise UsageFault("nothing was measured in what is exported", hint="invoke results")
    text = io.StringIO()
    pyperf.BenchmarkSuite([benchmark for _, benchmark in found.values()]).dump(text)
    stream.write(text.getvalue().encode())


def write_markdown(records: Iterable[RunRecord], stream: BinaryIO) -> None:
    """A table as llama-bench prints it: tokens a second, mean and deviation over the rounds."""
    headings = ("model", "size", "params", "backend", "threads", "dtype", "batch", "test", "t/s")
    rows = [
        (code(one.result.model), *_size(record), code(one.backend), *_llama_cells(one))
        for record in records
        for one in series.of(record)
    ]
    stream.write(("\n".join(markdown(headings, rows, left=1)) + "\n").encode())


Writer = Callable[[Iterable[RunRecord], BinaryIO], None]
FORMATS: Mapping[str, Writer] = MappingProxyType(
    {
        "pyperf": write_pyperf,
        "csv": write_csv,
        "parquet": write_parquet,
        "markdown": write_markdown,
    }
)
_BY_SUFFIX = {".json": "pyperf", ".csv": "csv", ".parquet": "parquet", ".md": "markdown"}


def format_of(named: str | None, file: Path | None) -> str:
    """The format asked for, or the one that the file's name ends in.

    Raises:
        UsageFault: neither says, or there is no such format.
    """
    if named is not None and named not in FORMATS:
        raise UsageFault(
            f"unknown format '{named}'", hint=f"--format {', '.join(FORMATS)}: choose one"
        )
    found = named or _BY_SUFFIX.get(file.suffix.lower() if file else "")
    if found is None:
        ends = ", ".join(_BY_SUFFIX)
        raise UsageFault(
            "which format?",
            hint=f"--format {', '.join(FORMATS)}, or --to a file that ends in {ends}",
        )
    return found


def _cell(value: Value) -> Value:
    if not isinstance(value, str):
        return value
    shown = plain(value)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def _batches(rows: Iterator[dict[str, Value]]) -> Iterator[list[dict[str, Value]]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == _PARQUET_ROWS:
            yield batch
            batch = []
    yield batch


def _benchmark_name(one: Series) -> str:
    result = one.result
    return plain(
        f"{result.model} {result.mode} batch {result.batch_size} tokens {result.seq_len} "
        f"{result.dtype} {result.device} {one.name}"
    ).strip()


def _pyperf_runs(record: RunRecord, one: Series, name: str) -> list[object]:
    import pyperf

    if min(one.samples) <= 0:
        raise UsageFault(
            f"{record.run_id}, {one.name}: a sample is 0 ms, which pyperf refuses",
            hint="a call that takes no time was not measured: run it again, or export as csv",
        )
    where = record.environment
    told: dict[str, str | None] = {
        "run_id": record.run_id,
        "cpu_model_name": where.cpu if where else None,
        "platform": f"Linux-{where.kernel}" if where else None,
        "python_version": where.python if where else None,
        "commit_id": where.git_commit if where else None,
        "image": record.image.tag if record.image else None,
        "tvm": identity.tvm(record),
    }
    # pyperf refuses a text that is empty, or of more than one line.
    shown = {key: plain(value).strip() for key, value in told.items() if value}
    metadata = {key: value for key, value in shown.items() if value}
    rounds: dict[int, list[float]] = {}
    for number, milliseconds in zip(
        one.process or [0] * len(one.samples), one.samples, strict=True
    ):
        rounds.setdefault(number, []).append(milliseconds / 1e3)
    return [
        pyperf.Run(
            values,
            metadata={**metadata, "name": name, "unit": "second", "loops": 1},
            collect_metadata=False,
        )
        for _, values in sorted(rounds.items())
    ]


def _llama_cells(one: Series) -> tuple[str, ...]:
    rates = [
        one.tokens_per_call / milliseconds * 1e3 for milliseconds in one.rounds if milliseconds
    ]
    mean = f"{statistics.fmean(rates):.2f}" if rates else "-"
    spread = f" ± {statistics.stdev(rates):.2f}" if len(rates) > 1 else ""
    threads = str(one.result.threads) if one.result.threads is not None else "-"
    return (threads, code(one.result.dtype), str(one.result.batch_size), _test(one), mean + spread)


def _test(one: Series) -> str:
    """What llama-bench calls it: pp64 is a prompt of 64 tokens, tg16 @ d64 16 new ones after 64."""
    result = one.result
    if result.mode == "encode":
        return f"enc{result.seq_len}"
    if result.mode == "decode" and one.metric == "latency":
        return f"tg{DECODE_STEPS} @ d{result.seq_len}"
    return f"pp{result.seq_len}"


def _size(record: RunRecord) -> tuple[str, str]:
    """(bytes of the weights, number of parameters), for people."""
    spec = record.spec
    geometry, width = spec.known_geometry, _BYTES.get(spec.dtype)
    if geometry is None or width is None:
        return "-", "-"
    count = _parameters(geometry)
    return f"{count * width / 2**20:.2f} MiB", f"{count / 1e6:.2f} M"


def _parameters(geometry: Geometry) -> int:
    """How many parameters a model has, the output layer being tied to the embedding."""
    C = geometry.n_embd
    block = 12 * C * C + 13 * C
    embeddings = (geometry.vocab_size + geometry.block_size) * C + 2 * C
    if isinstance(geometry, BertConfig):
        # The kinds of token; then the head's dense layer, its norm, and a bias for each token.
        embeddings += geometry.type_vocab_size * C + C * C + 3 * C + geometry.vocab_size
    return embeddings + geometry.n_layer * block
