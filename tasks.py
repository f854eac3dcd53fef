"""The verbs. Thin: parse, call bench.host, print. `invoke --list` and `--help` teach them."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent


def _stop(message: str, hint: str | None, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    sys.exit(code)


# Written by `make setup` and by the image's build: what runs here is what the locks say.
if not (Path(sys.prefix) / ".gpt-frontend-lock").is_file():
    _stop(f"this Python ({sys.prefix}) was not set up for gpt-frontend", "make setup", 2)

from invoke import Context, task  # noqa: E402

from bench.errors import BenchError  # noqa: E402
from bench.host import interrupts  # noqa: E402

_JOB_HELP = {
    "engine": "auto (default), docker or local; auto takes docker where an engine answers",
    "profile": "the image's profile in docker/pins.toml (default: cpu; cuda-wheels for a GPU)",
    "base": "the image stands on this base, as in build-image --base",
    "image": "run in this very image that build-image made (a tag or an id)",
    "model": "gpt-nano, gpt2 (default), gpt2-medium, gpt2-large or gpt2-xl",
    "mode": "prefill (default): all positions of a prompt in one call",
    "batch-size": "sequences in one call (default: 1)",
    "seq-len": "tokens in each sequence (default: 64)",
    "dtype": "float32 (default)",
    "threads": "cores to use (default: all the job sees)",
    "seed": "of weights and inputs (default: 0)",
    "timeout": "seconds after which the job is stopped (default: 3600)",
    "out": "where runs are kept (default: results)",
}


def verb(
    help: dict[str, str] | None = None, iterable: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Any]:
    """An Invoke task whose expected failures end as `error:` and `hint:`, never a traceback."""

    def decorate(body: Callable[..., None]) -> Any:
        @functools.wraps(body)
        def guarded(*args: Any, **kwargs: Any) -> None:
            debug = logging.getLogger("invoke").isEnabledFor(logging.DEBUG)
            interrupts.listen()
            try:
                body(*args, **kwargs)
            except BenchError as error:
                if debug:
                    raise
                _stop(error.message, error.hint, error.exit_code)
            except KeyboardInterrupt:
                _stop("interrupted", "nothing is half there: type it again to start over", 1)
            except BrokenPipeError:  # `invoke results | head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            except Exception as error:
                if debug:
                    raise
                _stop(
                    f"internal: {type(error).__name__}: {error}",
                    "a defect of ours: run again with --debug and open an issue",
                    1,
                )

        return task(guarded, help=help or {}, iterable=iterable, auto_shortflags=False)

    return decorate


_BUILD_HELP = {
    "profile": "llvm10 (default), latest or cpu-source compile TVM; cpu, cuda-wheels take wheels",
    "base": "any Debian or Ubuntu image instead of the profile's pinned base",
    "wheelhouse": "a directory of wheels to install torch from (default: PIP_FIND_LINKS)",
    "no-cache": "build every layer again",
    "dry-run": "print the build command and the image's tag, build nothing",
    "build-type": "Debug, RelWithDebInfo or Release (default: the profile's)",
    "cuda-arch": "GPUs to compile for, as 86,90 (default: the profile's)",
    "cuda-from-wheels": "CUDA's compiler and runtime from NVIDIA's wheels, on a base without them",
    "jobs": "compilers at once (default: by memory and cores)",
    "tvm-ref": "a commit, tag or branch of TVM instead of the profile's commit",
    "llvm": "apt:14 and the like for the distribution's, or a release in docker/pins.toml",
    "llvm-url": "an LLVM release's archive instead; goes with --llvm-sha256",
    "llvm-sha256": "the archive's checksum",
    "ssh": "lend your ssh agent to the build, for --private-repo: default",
    "private-repo": "an ssh address; the repository is cloned to /opt/private in the image",
    "private-ref": "its tag, branch or commit (default: HEAD)",
    "mirror": "NAME=URL, may be repeated: github, apt, pip, registry or any git host",
    "mirror-folder": "what `invoke mirror` made: objects are taken from there first",
    "cache-from": "a BuildKit cache to read, as type=registry,ref=HOST/NAME; may be repeated",
    "cache-to": "a BuildKit cache to write, as type=registry,ref=HOST/NAME,mode=max",
}


@verb(help=_BUILD_HELP, iterable=("mirror", "cache_from", "cache_to"))
def build_image(
    c: Context,
    profile: str | None = None,
    base: str | None = None,
    wheelhouse: str | None = None,
    no_cache: bool = False,
    dry_run: bool = False,
    build_type: str | None = None,
    cuda_arch: str | None = None,
    cuda_from_wheels: bool = False,
    jobs: str | None = None,
    tvm_ref: str | None = None,
    llvm: str | None = None,
    llvm_url: str | None = None,
    llvm_sha256: str | None = None,
    ssh: str | None = None,
    private_repo: str | None = None,
    private_ref: str | None = None,
    mirror: list[str] | None = None,
    mirror_folder: str | None = None,
    cache_from: list[str] | None = None,
    cache_to: list[str] | None = None,
) -> None:
    """Build the image that jobs run in and check its contract; an unchanged one is found."""
    from bench.host import verbs
    from bench.host.request import build_request

    request = build_request(
        profile=profile,
        base=base,
        wheelhouse=wheelhouse,
        no_cache=no_cache,
        build_type=build_type,
        cuda_arch=cuda_arch,
        cuda_from_wheels=cuda_from_wheels,
        jobs=jobs,
        tvm_ref=tvm_ref,
        llvm=llvm,
        llvm_url=llvm_url,
        llvm_sha256=llvm_sha256,
        ssh=ssh,
        private_repo=private_repo,
        private_ref=private_ref,
        mirror=mirror or (),
        mirror_folder=mirror_folder,
        cache_from=tuple(cache_from or ()),
        cache_to=tuple(cache_to or ()),
    )
    verbs.build_image(request, dry_run=dry_run)


@verb(
    help={
        "image": "a tag or an id (default: the newest that build-image made)",
        "json": "print the whole record as JSON",
    }
)
def verify_image(c: Context, image: str | None = None, json: bool = False) -> None:
    """Hold an image to its contract, in a container of it; exit 1 if a check fails."""
    from bench.host import verbs

    verbs.verify_image(image, as_json=json)


@verb(
    help={
        "tvm": "show what fits this TVM, as v0.23.0",
        "gpu": "show what fits this GPU architecture, as sm_86",
        "cuda": "show what fits this CUDA toolkit, as 12.4",
        "driver": "show what fits this NVIDIA driver, as 535.104",
        "json": "print the tables as JSON, each row with its source",
    }
)
def matrix(
    c: Context,
    tvm: str | None = None,
    gpu: str | None = None,
    cuda: str | None = None,
    driver: str | None = None,
    json: bool = False,
) -> None:
    """Say which TVM, LLVM, CUDA, GPU, driver and torch fit together, and which profile to take."""
    from bench.host import verbs

    verbs.matrix(tvm=tvm, gpu=gpu, cuda=cuda, driver=driver, as_json=json)


@verb(
    help={
        "into": "the folder (default: gpt-frontend/mirror in your cache)",
        "tvm": "only the repositories of this TVM, as v0.23.0 (default: of all profiles)",
        "mirror": "NAME=URL: fetch from there, as in build-image",
    },
    iterable=("mirror",),
)
def mirror(
    c: Context,
    into: str | None = None,
    tvm: str | None = None,
    mirror: list[str] | None = None,
) -> None:
    """Mirror TVM's repositories on this disk, for build-image --mirror-folder."""
    from bench.host import verbs

    verbs.mirror(into, tvm, mirror or ())


@verb(help={"suite": "the Debian suite (default: the one in docker/pins.toml)"})
def base_image(c: Context, suite: str | None = None) -> None:
    """Make a base image with debootstrap, for machines that reach no image registry (as root)."""
    from bench.host import verbs

    verbs.base_image(suite)


@verb(
    help={
        **_JOB_HELP,
        "gpu": "run on the GPU, in a CUDA profile; never falls back to a CPU or to local",
        "backends": "comma-separated; default: torch-eager,torch-compile,tvm-none,tvm-default,"
        "tvm-optimized",
        "repeats": "samples per backend, 10 or more (default: at least 10, for at least 3 s)",
    }
)
def bench(
    c: Context,
    gpu: bool = False,
    engine: str = "auto",
    profile: str | None = None,
    base: str | None = None,
    image: str | None = None,
    model: str | None = None,
    mode: str | None = None,
    batch_size: str | None = None,
    seq_len: str | None = None,
    dtype: str | None = None,
    backends: str | None = None,
    repeats: str | None = None,
    threads: str | None = None,
    seed: str | None = None,
    timeout: str | None = None,
    out: str = "results",
) -> None:
    """Measure a GPT before and after TVM's optimisation, beside its peers; print the table."""
    from bench.host import verbs
    from bench.host.request import spec_from

    spec = spec_from(
        kind="bench",
        device="cuda" if gpu else "cpu",
        model=model,
        mode=mode,
        batch_size=batch_size,
        seq_len=seq_len,
        dtype=dtype,
        backends=backends,
        repeats=repeats,
        threads=threads,
        seed=seed,
        timeout_s=timeout,
    )
    verbs.run_job(spec, engine, profile, base, Path(out), image)


@verb(
    help={
        **_JOB_HELP,
        "backends": "comma-separated TVM backends (default: tvm-none,tvm-default,tvm-optimized)",
        "cuda-arch": "compile for this GPU architecture, as sm_86; needs no GPU",
    }
)
def compile(
    c: Context,
    engine: str = "auto",
    profile: str | None = None,
    base: str | None = None,
    image: str | None = None,
    model: str | None = None,
    mode: str | None = None,
    batch_size: str | None = None,
    seq_len: str | None = None,
    dtype: str | None = None,
    backends: str = "tvm-none,tvm-default,tvm-optimized",
    cuda_arch: str | None = None,
    threads: str | None = None,
    seed: str | None = None,
    timeout: str | None = None,
    out: str = "results",
) -> None:
    """Compile only, and keep the library and its parameters, so that bench need not."""
    from bench.host import verbs
    from bench.host.request import spec_from

    spec = spec_from(
        kind="compile",
        device="cuda" if cuda_arch else "cpu",
        cuda_arch=cuda_arch,
        model=model,
        mode=mode,
        batch_size=batch_size,
        seq_len=seq_len,
        dtype=dtype,
        backends=backends,
        threads=threads,
        seed=seed,
        timeout_s=timeout,
    )
    verbs.run_job(spec, engine, profile, base, Path(out), image)


@verb(help={"out": _JOB_HELP["out"]})
def results(c: Context, out: str = "results") -> None:
    """List the runs: when, what, where, before, after."""
    from bench.host import verbs

    verbs.list_runs(Path(out))


@verb(help={"run": "a run's id or part of it, `last`, or its directory", "out": _JOB_HELP["out"]})
def show(c: Context, run: str, out: str = "results") -> None:
    """Print one run: its table, its environment, and why anything failed."""
    if run in ("--help", "-h"):  # Invoke's parser gives a required argument whatever comes next
        os.execv(sys.executable, [sys.executable, "-m", "invoke", "--help", "show"])
    from bench.host import verbs

    verbs.show_run(run, Path(out))


@verb(help={"profile": _JOB_HELP["profile"], "base": _JOB_HELP["base"]})
def shell(c: Context, profile: str | None = None, base: str | None = None) -> None:
    """Open a shell in the image, as you, with the project mounted at /workspace."""
    from bench.host import verbs

    verbs.shell(profile, base)


@verb(
    help={
        "profile": "measure the machine by what this profile's build needs",
        "json": "print the findings as JSON",
    }
)
def doctor(c: Context, profile: str | None = None, json: bool = False) -> None:
    """Say what this machine has and lacks, and the command that mends it; exit 1 if blocked."""
    from bench.host import verbs

    verbs.doctor(profile, as_json=json)


@verb(
    help={
        "images": "also remove the images that build-image made",
        "out": _JOB_HELP["out"],
    }
)
def clean(c: Context, images: bool = False, out: str = "results") -> None:
    """Remove compiled artefacts, abandoned partial runs and dead containers; never results."""
    from bench.host import verbs

    verbs.clean(Path(out), images=images)
