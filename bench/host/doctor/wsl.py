"""WSL2, where the driver is Windows' and half of what is written about Linux does harm."""

from __future__ import annotations

import re

from bench.host.doctor.finding import Finding, note, ok
from bench.host.doctor.scene import Scene

LIBRARIES = "/usr/lib/wsl/lib"
LIBCUDA = f"{LIBRARIES}/libcuda.so"
DEVICE = "/dev/dxg"
DRIVER_PACKAGES = (
    *("dpkg-query", "-W", "-f=${db:Status-Abbrev} ${Package}\\n"),
    *("nvidia-driver-*", "libnvidia-compute-*", "cuda-drivers*", "nvidia-dkms-*"),
)
# https://docs.nvidia.com/cuda/wsl-user-guide: the kernel from which CUDA is supported.
LEAST_KERNEL = (5, 10)
WINDOWS_DRIVER = (
    "install or update NVIDIA's driver in Windows (https://www.nvidia.com/drivers, version 470 or "
    "later), then in PowerShell: wsl --update; wsl --shutdown"
)


def check_wsl(scene: Scene) -> list[Finding]:
    """Nothing on other machines."""
    if not scene.wsl:
        return []
    kernel = " ".join((scene.host.read("/proc/version") or "").split()[:3])
    if scene.wsl == 1:
        return [
            note(
                "WSL",
                f"WSL 1: {kernel}",
                "it has no Linux kernel: neither an engine nor a GPU works in it",
                "in PowerShell: wsl --set-version DISTRIBUTION 2 (wsl -l -v lists them)",
            )
        ]
    return [
        _kernel(kernel),
        *_systemd(scene),
        *_linux_driver(scene),
        _libcuda(scene),
        _library_path(scene),
        *_docker(scene),
        *_place(scene),
    ]


def _kernel(kernel: str) -> Finding:
    found = re.search(r"(\d+)\.(\d+)", kernel)
    if found and (int(found[1]), int(found[2])) < LEAST_KERNEL:
        return note(
            "WSL",
            f"WSL 2: {kernel}",
            "CUDA needs kernel 5.10.16.3 or later",
            "in PowerShell: wsl --update; wsl --shutdown",
        )
    return ok("WSL", f"WSL 2: {kernel}")


def _systemd(scene: Scene) -> list[Finding]:
    """An engine inside WSL is started by systemd, or by nobody."""
    first = scene.host.run(["ps", "-p", "1", "-o", "comm="]).out.strip()
    if scene.desktop or first == "systemd":
        return []
    return [
        note(
            "WSL systemd",
            f"the first process is {first or 'unknown'}, not systemd",
            "no service starts by itself: the engine is gone after each wsl --shutdown",
            "[boot] systemd=true in /etc/wsl.conf, then in PowerShell: wsl --shutdown",
        )
    ]


def _linux_driver(scene: Scene) -> list[Finding]:
    """A Linux driver in WSL hides Windows' one, even where it was brought along by `cuda`."""
    rows = [line.split() for line in scene.host.run(DRIVER_PACKAGES).out.splitlines()]
    packages = [row[-1] for row in rows if len(row) > 1 and row[0] == "ii"]
    kernel_module = scene.host.exists("/proc/driver/nvidia/version")
    if not packages and not kernel_module:
        return []
    return [
        note(
            "WSL Linux driver",
            f"an NVIDIA driver for Linux is installed here: {', '.join(packages) or 'a module'}",
            f"its libcuda hides the one that Windows puts into {LIBRARIES}, so that CUDA finds no "
            "GPU; WSL must have no Linux driver",
            "sudo apt-get purge 'nvidia-driver-*' 'libnvidia-compute-*' 'cuda-drivers*' "
            "'nvidia-dkms-*' && sudo ldconfig; for the toolkit install cuda-toolkit-12-4, never "
            "`cuda`; then wsl --shutdown",
        )
    ]


def _libcuda(scene: Scene) -> Finding:
    host = scene.host
    missing = [path for path in (DEVICE, LIBCUDA) if not host.exists(path)]
    if LIBCUDA in missing and host.exists(f"{LIBCUDA}.1"):
        missing.remove(LIBCUDA)
    if missing:
        return note(
            "WSL CUDA",
            f"no {' and no '.join(missing)}",
            "CUDA is missing in WSL2: both come from Windows, not from any package in here",
            WINDOWS_DRIVER,
        )
    return ok("WSL CUDA", f"{LIBCUDA}, from the Windows driver")


def _library_path(scene: Scene) -> Finding:
    """The loader must find Windows' libcuda, and no other before it."""
    listed = scene.host.run(["ldconfig", "-p"]).out
    found = re.findall(r"libcuda\.so\.1 \([^)]*\) => (\S+)", listed)
    others = [path for path in found if not path.startswith(LIBRARIES)]
    if others and found[0] == others[0]:
        return note(
            "WSL loader",
            f"libcuda.so.1 is {others[0]}",
            "it is a Linux driver's, or a stub: CUDA programs fail with `no CUDA-capable device`",
            f"dpkg -S {others[0]} names its package: sudo apt-get purge it; then sudo ldconfig",
        )
    return ok("WSL loader", found[0] if found else "libcuda.so.1 is found by LD_LIBRARY_PATH only")


def _docker(scene: Scene) -> list[Finding]:
    """Docker Desktop gives WSL's GPU to containers by itself; an engine in here needs a toolkit."""
    if scene.engine is None:
        return []
    if scene.desktop:
        return [ok("WSL Docker", "Docker Desktop: it brings NVIDIA's container toolkit along")]
    if scene.snap:
        return [
            note(
                "WSL Docker",
                "an engine of the snap store inside WSL",
                f"it is confined and cannot see {LIBRARIES}: its containers get no GPU",
                "sudo snap remove --purge docker; then Docker Desktop, or sudo make engine",
            )
        ]
    return [ok("WSL Docker", "an engine inside WSL")]


def _place(scene: Scene) -> list[Finding]:
    """The Windows file system is reached through 9p: slow, and without modes."""
    top = scene.host.run(["git", "rev-parse", "--show-toplevel"]).out.strip()
    if not re.match(r"/mnt/[a-z]/", top):
        return []
    return [
        note(
            "WSL folder",
            f"the project lies on Windows' disk: {top}",
            "each file goes through 9p: builds and git take many times as long, modes get lost",
            "clone it anew under your Linux home: cd ~ && git clone URL",
        )
    ]
