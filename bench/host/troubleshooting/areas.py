"""Where on the page an error stands: by the module that makes it, the longest prefix first."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Area:
    """A part of the page. ``prefixes`` are modules, packages and scripts."""

    title: str
    lead: str
    prefixes: tuple[str, ...]


AREAS = (
    Area(
        "Making the environment",
        "`make setup`, and what every target runs first.",
        ("bench.host.venv", "tasks", "docker", "Makefile"),
    ),
    Area(
        "Images",
        "`invoke build-image`, `verify-image`, `base-image`. A check of the contract that fails is "
        "explained in [contract.md](contract.md), a lock that does not hold in "
        "[locking.md](locking.md).",
        (
            *("bench.host.image", "bench.host.recipe", "bench.host.pins", "bench.host.promise"),
            *("bench.host.verify", "bench.host.content", "bench.host.buildx", "bench.host.bases"),
            *("bench.host.base_image", "bench.host.apt", "bench.build.contract"),
            *("bench.host.lock", "bench.tasks.locks"),
            *("bench.host.reproduce", "bench.tasks.images"),
            *("bench.contract", "bench.job.contract", "bench.job.probes", "docker/Dockerfile"),
        ),
    ),
    Area(
        "A container to work in",
        "`invoke devcontainer` and `invoke shell`: [devcontainer.md](devcontainer.md).",
        ("bench.host.workplace",),
    ),
    Area(
        "Which versions fit",
        "`error: this combination cannot work`, and below it one line for each of these. The hint "
        "mends all of them at once: [toolchain.md](toolchain.md).",
        ("bench.host.toolchain",),
    ),
    Area(
        "Clones, downloads, proxies and mirrors",
        "What git's and pip's own messages mean stands in [sources.md](sources.md).",
        (
            *("bench.build.fetch", "bench.host.mirror", "bench.host.mirrors"),
            *("bench.host.network", "bench.host.loopback", "bench.host.known_hosts"),
            *("bench.host.git", "bench.host.assets"),
        ),
    ),
    Area("Compiling TVM in an image", "Steps of `invoke build-image`.", ("bench.build",)),
    Area(
        "The Docker engine",
        "`invoke doctor` looks at the same things: [doctor.md](doctor.md).",
        ("bench.host.engine", "bench.host.choose", "docker/engine.sh"),
    ),
    Area(
        "Jobs",
        "What `bench`, `compile`, `train`, `generate` and `evaluate` have in common, and the rows "
        "of `bench` that have a reason instead of a latency.",
        ("bench",),
    ),
    Area(
        "Compiling a model",
        "Inside the image, or in `.venv` with the local engine.",
        ("bench.job.compile", "bench.job.backends", "bench.job.driver", "bench.job.artefacts"),
    ),
    Area(
        "Models and weights",
        "What can be loaded: [weights.md](weights.md).",
        (
            *("bench.checkpoint", "bench.host.weights", "bench.host.hub", "bench.host.untrusted"),
            *("bench.job.weights", "bench.job.tensors", "bench.job.models", "bench.job.gpt"),
            *("bench.job.bert", "bench.job.tokenizer"),
        ),
    ),
    Area(
        "Training, generating and evaluating",
        "What the words mean: [concepts.md](concepts.md).",
        (
            *("bench.training", "bench.generation", "bench.host.train", "bench.host.texts"),
            *("bench.job.train", "bench.job.train_model", "bench.job.training_state"),
            *("bench.job.beginning", "bench.job.text", "bench.job.blocks", "bench.job.bigram"),
            *("bench.job.generate", "bench.job.evaluate", "bench.job.cached"),
        ),
    ),
    Area(
        "Runs, statistics and comparison",
        "`invoke results`, `show`, `compare`, `export`, `bisect`: [history.md](history.md).",
        (
            *("bench.host.runs", "bench.host.store", "bench.host.stats", "bench.host.history"),
            *("bench.host.report", "bench.host.sweep", "bench.host.curve", "benchmarks"),
        ),
    ),
    Area(
        "The same image again",
        "`invoke rerun`, `sbom`, `save`, `load`, `push`, `pull`: "
        "[supply-chain.md](supply-chain.md).",
        ("bench.host.supply",),
    ),
    Area(
        "What doctor finds",
        "Findings are no errors: they name the command that mends them. [doctor.md](doctor.md) "
        "says more of each.",
        ("bench.host.doctor",),
    ),
)


def area_of(module: str) -> Area:
    """The area of a module or script; ``bench`` and the rest of docker/ take what is left."""
    best, length = AREAS[0], -1
    for area in AREAS:
        for prefix in area.prefixes:
            inside = module == prefix or module.startswith((f"{prefix}.", f"{prefix}/"))
            if inside and len(prefix) > length:
                best, length = area, len(prefix)
    return best
