"""The lock: what everything is made from, resolved, checked, moved on."""

from __future__ import annotations

from invoke import Context

from bench.tasks.guard import help_if_asked, verb

_MIRROR = "NAME=URL, may be repeated: ask there, as in build-image"


@verb(
    help={
        "check": "write nothing; exit 1 where something drifted, 3 where something was not checked",
        "only": "parts, with commas: base, sources, archives, weights, apt, python (default: all)",
        "offline": "with --check: only what can be held against each other without any network",
        "mirror": _MIRROR,
    },
    iterable=("mirror",),
)
def lock(
    c: Context,
    check: bool = False,
    only: str | None = None,
    offline: bool = False,
    mirror: list[str] | None = None,
) -> None:
    """Resolve every pin and lock anew, show what is otherwise, and write it; or only --check it."""
    from bench.host.lock import verbs

    verbs.lock(only, mirror or (), check=check, offline=offline)


@verb(
    help={
        "what": "tvm, cuda, python, base, llvm, several with commas, or all",
        "write": "write what fits to docker/pins.toml (and requirements.in); then: invoke lock",
        "mirror": _MIRROR,
    },
    iterable=("mirror",),
)
def update(
    c: Context,
    what: str,
    write: bool = False,
    mirror: list[str] | None = None,
) -> None:
    """Propose newer pins, each tried by the solver; one that cannot work is shown with why."""
    help_if_asked(what, "update")
    from bench.host.lock import newer

    newer.update(what, mirror or (), writing=write)
