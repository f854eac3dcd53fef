"""The GPUs that nvidia-smi names."""

from __future__ import annotations

from dataclasses import dataclass

from bench.host.doctor.machine import Host

PROGRAM = "nvidia-smi"
WSL_PROGRAM = "/usr/lib/wsl/lib/nvidia-smi"  # not every shell has it on its PATH
TIMEOUT_S = 20  # without the persistence daemon the driver is loaded anew for each call


@dataclass(frozen=True)
class Gpu:
    """``driver`` is like `550.54.14`; ``capability`` like `8.6`, None from drivers before 510."""

    name: str
    driver: str
    capability: str | None

    def __str__(self) -> str:
        told = f", compute capability {self.capability}" if self.capability else ""
        return f"{self.name}, driver {self.driver}{told}"


def gpus(host: Host, wsl: bool) -> list[Gpu] | str | None:
    """The GPUs here, or what nvidia-smi said where it failed; None where there is no nvidia-smi."""
    if host.which(PROGRAM):
        program = PROGRAM
    elif wsl and host.exists(WSL_PROGRAM):
        program = WSL_PROGRAM
    else:
        return None
    done = host.run(_query(program, "name,driver_version,compute_cap"), TIMEOUT_S)
    if done.code != 0 and "compute_cap" in done.said:
        done = host.run(_query(program, "name,driver_version"), TIMEOUT_S)
    if done.code != 0:
        return done.said or f"nvidia-smi: exit code {done.code}"
    rows = [[part.strip() for part in line.split(",")] for line in done.out.splitlines()]
    found = [Gpu(row[0], row[1], row[2] if len(row) > 2 else None) for row in rows if len(row) > 1]
    return found or "nvidia-smi names no GPU"


def _query(program: str, fields: str) -> list[str]:
    return [program, f"--query-gpu={fields}", "--format=csv,noheader"]
