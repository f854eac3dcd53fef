"""What a profile needs of the machine: disk, memory, addresses, a driver."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from bench.host.pins import Pins

# GiB on the engine's disk: the base, the image, the layers that are made on the way and, for a
# build from source, its trees: LLVM unpacked is 5 GiB, a Debug build of TVM as much again, NVIDIA's
# devel image 8. By (from source, device).
_DISK_GIB = {
    (False, "cpu"): 8.0,
    (False, "cuda"): 24.0,
    (True, "cpu"): 20.0,
    (True, "cuda"): 40.0,
}
# gpt2 through five backends: a 0.5 GB model, twice, beside a compiler. A source build runs at
# least two compilers of 2 GiB, then a linker with all debug symbols of libtvm.so.
_MEMORY_GIB = {False: 4.0, True: 8.0}
DOCKER_HUB_NAMES = ("docker.io", "index.docker.io")
DOCKER_HUB = "registry-1.docker.io"


@dataclass(frozen=True)
class CudaNeed:
    """A profile's CUDA: the toolkit as `12.4.1`, the architectures that it compiles for as `86`.

    PyTorch brings a CUDA of its own, which wants a driver as well: `torch_cuda`.
    """

    profile: str
    toolkit: str
    archs: tuple[str, ...] = ()
    torch: str | None = None
    torch_cuda: str | None = None


@dataclass(frozen=True)
class Needs:
    """What is asked of the machine. ``profile`` is None where the user named none."""

    profile: str | None = None
    from_source: bool = False
    disk_gib: float = _DISK_GIB[False, "cpu"]
    memory_gib: float = _MEMORY_GIB[False]
    git_url: str | None = "https://github.com"
    registry: str = DOCKER_HUB
    cuda: tuple[CudaNeed, ...] = ()


def of(profile: str | None, pins: Pins) -> Needs:
    """The needs of one profile; without a name, those of the least that must work.

    Raises:
        UsageFault: there is no such profile.
    """
    if profile is None:
        return Needs(
            cuda=tuple(_cuda(name, pins) for name in pins.profiles if _has_cuda(name, pins))
        )
    chosen = pins.profile(profile)
    source = pins.sources[chosen.tvm] if chosen.from_source else None
    return Needs(
        profile=profile,
        from_source=chosen.from_source,
        # Twice the image: while it is exported, its layers are there a second time.
        disk_gib=max(_DISK_GIB[chosen.from_source, chosen.device], 2 * chosen.budget_gib),
        memory_gib=_MEMORY_GIB[chosen.from_source],
        git_url=_origin(source.url) if source else None,
        registry=registry_of(chosen.base),
        cuda=(_cuda(profile, pins),) if _has_cuda(profile, pins) else (),
    )


def registry_of(reference: str) -> str:
    """The host that an image reference is pulled from."""
    first, slash, _ = reference.partition("/")
    if first in DOCKER_HUB_NAMES:
        return DOCKER_HUB
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first
    return DOCKER_HUB


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _has_cuda(name: str, pins: Pins) -> bool:
    return pins.profiles[name].device == "cuda"


def _cuda(name: str, pins: Pins) -> CudaNeed:
    """A profile's toolkit: the base's, or that of the CUDA wheels."""
    profile = pins.profiles[name]
    versions = pins.versions
    toolkit = profile.cuda or versions.torch_cuda
    return CudaNeed(name, toolkit, profile.cuda_arch, versions.torch, versions.torch_cuda)
