"""What an image promises, read from its labels and the pins: the contract's other half."""

from __future__ import annotations

from collections.abc import Mapping

from bench.contract import Expected
from bench.errors import UsageFault
from bench.host import toolchain
from bench.host.pins import Pins

PREFIX = "io.gpt-frontend"
GIB = 2**30


def of_labels(labels: Mapping[str, str], pins: Pins) -> Expected:
    """The contract of an image that `invoke build-image` made, by what it is labelled with.

    Raises:
        UsageFault: it is none of ours, or of a profile that the pins no longer have.
    """
    name = labels.get(f"{PREFIX}.profile")
    if name is None:
        raise UsageFault(
            "this image carries no labels of ours, so nothing is known of what it promises",
            hint="`invoke build-image` makes one that says",
        )
    profile = pins.profile(name)
    pin = {key: labels.get(f"{PREFIX}.pin.{key}", "") for key in ("tvm", "tvm_ffi", "torch")}
    budget = int(profile.budget_gib * GIB)
    # Nobody pins these two: they are the base's.
    brought = toolchain.of_profile(pins, name, base=labels.get(f"{PREFIX}.base"))
    build = {
        key.removeprefix(f"{PREFIX}.build."): value
        for key, value in labels.items()
        if key.startswith(f"{PREFIX}.build.")
    }
    if not build:
        return Expected(
            profile=name,
            device=profile.device,
            tvm_from="wheel",
            tvm=pin["tvm"],
            tvm_ffi=pin["tvm_ffi"],
            torch=pin["torch"],
            cuda=True,  # PyPI's wheels are built with it, on every machine
            cuda_architectures=profile.cuda_arch,
            gcc=brought.gcc,
            python=brought.python,
            budget_bytes=budget,
        )
    source = pins.sources.get(pin["tvm"])
    locked = source is not None and source.commit == build["tvm_commit"]
    cuda_from = build["cuda_from"]
    nvcc = {"wheels": pins.versions.nvcc_wheel, "base": _toolkit(profile.cuda)}.get(cuda_from)
    return Expected.model_validate(
        {
            **pin,
            "tvm": pin["tvm"] or None,
            "profile": name,
            "device": profile.device,
            "tvm_from": "source",
            "cuda": cuda_from != "none",
            "cuda_architectures": tuple(filter(None, build["cuda_arch"].split(","))),
            "build_type": build["build_type"],
            "llvm_version": build["llvm"],
            "llvm_config": build["llvm_config"],
            "commit": build["tvm_commit"],
            "submodules": source.gitlinks if source is not None and locked else {},
            "cmake": f"=={pins.versions.cmake}",
            "nvcc": nvcc,
            "gcc": brought.gcc,
            "python": brought.python,
            "budget_bytes": budget,
        }
    )


def _toolkit(cuda: str | None) -> str | None:
    """The part of a toolkit's version that its nvcc shares: 12.4 of 12.4.1."""
    return ".".join(cuda.split(".")[:2]) if cuda else None
