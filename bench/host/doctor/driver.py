"""The driver and the GPU against the CUDA of the profiles; the tables are the toolchain's."""

from __future__ import annotations

from bench.host import toolchain
from bench.host.doctor.finding import Finding, note, ok
from bench.host.doctor.needs import CudaNeed
from bench.host.doctor.nvidia import Gpu
from bench.host.doctor.scene import Scene


def check_driver(scene: Scene) -> list[Finding]:
    """One finding a profile with CUDA, for the first GPU; none where no GPU answers."""
    found = scene.gpus
    if not isinstance(found, list):
        return []
    return [_against(found[0], need) for need in scene.needs.cuda]


def _against(gpu: Gpu, need: CudaNeed) -> Finding:
    name = f"driver for {need.profile}"
    archs = (gpu.capability,) if gpu.capability else ()
    problems = toolchain.problems(
        toolchain.describe(
            cuda=need.toolkit,
            cuda_arch=archs,
            driver=gpu.driver,
            torch=need.torch,
            torch_cuda=need.torch_cuda,
        )
    )
    if problems:
        return note(
            name,
            "; ".join(f"{one.what}: {one.reason}" for one in problems),
            f"the image of {need.profile} does not run on this GPU",
            "; ".join(dict.fromkeys(one.nearest for one in problems if one.nearest))
            or "invoke matrix shows what fits",
        )
    if gpu.capability and need.archs and not _runs(gpu.capability, need.archs):
        number = gpu.capability.replace(".", "")
        return note(
            name,
            f"{gpu.name} is sm_{number}; compiled for {', '.join(need.archs)}",
            "there is no code in the image for this GPU: `no kernel image is available`",
            f"invoke build-image --profile {need.profile} --cuda-arch {number}",
        )
    return ok(name, f"driver {gpu.driver}, CUDA {need.toolkit}")


def _runs(capability: str, archs: tuple[str, ...]) -> bool:
    """Code for 8.0 runs on 8.6 too, never the other way round nor on another major version."""
    major, minor = (int(part) for part in capability.split("."))
    plain = [int(arch) for arch in archs if arch.isdigit()]
    exact = {arch.rstrip("af") for arch in archs}
    within = any(arch // 10 == major and arch % 10 <= minor for arch in plain)
    return within or f"{major}{minor}" in exact
