"""Many runs: listed, compared, exported, and searched for the commit that made one slower."""

from __future__ import annotations

from pathlib import Path

from invoke import Context

from bench.tasks.guard import help_if_asked, verb
from bench.tasks.options import JOB

_FILTERS = {
    "model": "only runs of this model; * stands for anything, as in 'gpt2*'",
    "backend": "only runs with this backend, with its median",
    "commit": "only runs of this commit of the project (its beginning, a tag, HEAD)",
    "image": "only runs in this image: part of its tag, or the beginning of its id or digest",
    "machine": "only runs on this machine: part of its processor or GPU",
    "kind": "only bench, compile, train, generate or evaluate",
}
_ALLOW = "compare although the runs differ in this key, as image,tvm"


@verb(
    help={
        **_FILTERS,
        "limit": "show so many of the newest (default: all)",
        "json": "print what the index has of them as JSON",
        "out": JOB["out"],
    }
)
def results(
    c: Context,
    model: str | None = None,
    backend: str | None = None,
    commit: str | None = None,
    image: str | None = None,
    machine: str | None = None,
    kind: str | None = None,
    limit: str | None = None,
    json: bool = False,
    out: str = "results",
) -> None:
    """List the runs, oldest first: when, what, where, before, after."""
    from bench.host.history import query, verbs

    filters = query.filters(
        model=model,
        backend=backend,
        commit=commit,
        image=image,
        machine=machine,
        kind=kind,
        root=verbs.ROOT,
    )
    verbs.results(Path(out), filters, limit=query.count(limit), as_json=json)


@verb(
    help={
        "base": "the run to compare with: its id or part of it, `last`, or its directory",
        "new": "the run that may have become slower, or faster",
        "backends": "only these, comma-separated (default: all that both have)",
        "allow": _ALLOW,
        "fail-if-slower": "exit 1 if a backend is shown to be slower by more than this, as 5%",
        "format": "text (default), markdown (a comment for a pull request) or json",
        "out": JOB["out"],
    }
)
def compare(
    c: Context,
    base: str,
    new: str,
    backends: str = "",
    allow: str = "",
    fail_if_slower: str | None = None,
    format: str = "text",
    out: str = "results",
) -> None:
    """Say how much slower or faster a run is than another, and whether that is sure."""
    help_if_asked(base, "compare")
    from bench.host.history import verbs

    verbs.compare(
        base,
        new,
        Path(out),
        backends=_names(backends),
        allow=_names(allow),
        fail_if_slower=fail_if_slower,
        form=format,
    )


@verb(
    help={
        "runs": "a run, several with commas, or `all` (the filters say which)",
        "format": "pyperf, csv, parquet, or markdown as llama-bench has it (default: by --to)",
        "to": "the file to write (default: standard output)",
        **_FILTERS,
        "out": JOB["out"],
    }
)
def export(
    c: Context,
    runs: str,
    format: str | None = None,
    to: str | None = None,
    model: str | None = None,
    backend: str | None = None,
    commit: str | None = None,
    image: str | None = None,
    machine: str | None = None,
    kind: str | None = None,
    out: str = "results",
) -> None:
    """Write runs for pyperf, a spreadsheet, a notebook or a page of Markdown."""
    help_if_asked(runs, "export")
    from bench.host.history import query, verbs

    filters = query.filters(
        model=model,
        backend=backend,
        commit=commit,
        image=image,
        machine=machine,
        kind=kind,
        root=verbs.ROOT,
    )
    verbs.export(runs, Path(out), filters, form=format, to=Path(to) if to else None)


@verb(
    help={
        "good": "a commit that is fast (a tag, a branch or a hash)",
        "bad": "a later one that is slow",
        "backend": "what became slower (default: tvm-optimized)",
        "bench": "options for `invoke bench` at each commit, as '--model gpt-nano --engine local'",
        "least": "search only if the ends differ by more than this (default: 1%)",
        "allow": _ALLOW,
        "out": JOB["out"],
    }
)
def bisect(
    c: Context,
    good: str,
    bad: str,
    backend: str = "tvm-optimized",
    bench: str = "",
    least: str = "1%",
    allow: str = "",
    out: str = "results",
) -> None:
    """Find the commit that made a backend slower, measuring each in a work tree of its own."""
    from bench.host.history import verbs

    verbs.bisect(
        good,
        bad,
        Path(out),
        backend=backend,
        arguments=verbs.options(bench),
        allow=_names(allow),
        least=least,
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
