"""The GPU: the driver here, a container that asks for it, and what the driver can run.

Not by the name of a runtime: `nvidia` in `docker info` says that somebody has configured one, and
an engine without it may get GPUs through CDI. Only a container that was started tells.
"""

from __future__ import annotations

import re

from bench.host.doctor.finding import Finding, note, ok
from bench.host.doctor.scene import Scene
from bench.host.engine import docker

LEAVE_OUT = (
    "leave --gpu out; or install NVIDIA's driver: sudo apt-get install nvidia-driver (Debian), "
)
LEAVE_OUT += "sudo ubuntu-drivers install (Ubuntu), and restart the machine"
WINDOWS = "install NVIDIA's Windows driver (nothing in WSL), then in PowerShell: wsl --update; "
WINDOWS += "wsl --shutdown"

# What nvidia-smi says where it fails; the first that matches counts.
SMI_REMEDIES = (
    ("version mismatch", "restart the machine: the driver was updated under a running kernel"),
    ("communicate with the NVIDIA driver", "sudo modprobe nvidia; if that fails, after a kernel "
     "update: sudo apt-get install --reinstall linux-headers-$(uname -r) nvidia-dkms-550 (the "
     "driver's number), or switch Secure Boot off"),
    ("blocked by the operating system", f"{WINDOWS}; a GPU in TCC mode (data centre) cannot be "
     "lent: nvidia-smi -dm 0 in Windows switches it to WDDM"),
    ("No devices were found", "sudo dmesg | grep -i NVRM tells why; restart the machine"),
)  # fmt: skip
# What an engine says where it gives no container a GPU.
CTK = "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit"
REFUSALS = (
    (
        "could not select device driver|known GPU vendor|unresolvable CDI devices",
        f"install the NVIDIA Container Toolkit on the engine's machine ({CTK}): sudo apt-get "
        "install nvidia-container-toolkit && sudo nvidia-ctk runtime configure --runtime=docker && "
        "sudo systemctl restart docker",
    ),
    ("version mismatch", "restart the machine: the driver was updated under a running kernel"),
    (
        "unsatisfied condition: cuda",
        "the image needs a newer driver: update it, or build a profile with an older CUDA",
    ),
    (
        "no adapters were found|libdxcore",
        WINDOWS,
    ),
    (
        r"libnvidia-ml\.so\.1|driver not loaded|nvml error",
        "the toolkit finds no driver: nvidia-smi must work on the engine's machine first",
    ),
    (
        "BPF_CGROUP_DEVICE|bpf_prog_query|cgroup",
        "rootless engine: sudo nvidia-ctk config --set nvidia-container-cli.no-cgroups --in-place",
    ),
    (
        "nvidia-container-runtime|runtime name",
        "the runtime that is configured is not installed: sudo apt-get install "
        "nvidia-container-toolkit && sudo systemctl restart docker",
    ),
    (
        "[Tt]imed out",
        "the engine is busy, with a build perhaps: invoke doctor again when it is not",
    ),
    (
        r"no libcuda\.so\.1",
        "the toolkit gives no driver library: sudo nvidia-ctk runtime configure --runtime=docker "
        "&& sudo systemctl restart docker",
    ),
    (
        "cuInit returns 803",
        "driver and library differ: restart the machine",
    ),
    (
        "cuInit returns (100|999)",
        "restart the engine: sudo systemctl restart docker (after suspend: sudo rmmod nvidia_uvm "
        "&& sudo modprobe nvidia_uvm)",
    ),
)


def check_gpu(scene: Scene) -> Finding:
    found = scene.gpus
    if found is None:
        return _no_driver(scene)
    if isinstance(found, str):
        otherwise = "nvidia-smi must work first: check the NVIDIA driver, restart the machine"
        return note("gpu", found, "--gpu cannot run", _remedy(SMI_REMEDIES, found, otherwise))
    seen = "; ".join(map(str, found))
    if scene.engine is None:
        return ok("gpu", f"{seen}; no engine to give it to a container")
    answer = scene.engine.try_gpu()
    if answer.refusal is not None:
        said = " ".join(answer.refusal.split())
        remedy = _remedy(REFUSALS, said, docker.GPU_HINT)
        if scene.snap:
            remedy = f"the snap package of Docker cannot see the driver; {remedy}"
        if scene.desktop and not scene.wsl:
            remedy = "Docker Desktop for Linux gives containers no GPU: install Docker Engine"
        runtimes = scene.engine.info.get("Runtimes") or {}
        named = ", though a runtime is called nvidia" if "nvidia" in runtimes else ""
        return note("gpu", f"{seen}; the engine: {said}{named}", "no container gets it", remedy)
    proof = f"a container sees {answer.said}" if answer.said else "containers get it"
    return ok("gpu", f"{seen}; {proof}")


def _no_driver(scene: Scene) -> Finding:
    if scene.wsl:
        return note("gpu", "no nvidia-smi: Windows gives WSL no NVIDIA driver", "--gpu cannot run",
                    f"leave --gpu out; or {WINDOWS}")  # fmt: skip
    cards = [line for line in scene.host.run(["lspci", "-d", "10de:"]).out.splitlines()
             if re.search("VGA|3D|Display", line)]  # fmt: skip
    seen = "no nvidia-smi: no NVIDIA driver here"
    if cards:
        seen += f", but a GPU: {cards[0].partition(': ')[2]}"
    return note("gpu", seen, "--gpu cannot run", LEAVE_OUT)


def _remedy(table: tuple[tuple[str, str], ...], said: str, otherwise: str) -> str:
    return next((remedy for pattern, remedy in table if re.search(pattern, said)), otherwise)
