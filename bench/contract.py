"""What an image promises, and what was found when it was asked.

The host derives an ``Expected`` from docker/pins.toml and gives it to the image; the image hands
back ``Findings``; the host adds what only it knows and keeps a ``ContractRecord``. All are plain
data, versioned and validated when read. Inside an image's build, where pydantic is not installed
yet, bench/build/contract.py reads and writes the same JSON; a test holds both to one shape.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.record import ImageRef

# Where an image that was built from source keeps what its build left to be checked.
BUILT_DIR = "/opt/gpt-frontend/built"
EXPECTED_FILE = "expected.json"
FINDINGS_FILE = "findings.json"

Bytes = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Expected(BaseModel):
    """What an image promises; None where it promises nothing.

    A version may be given in part: "14" is kept by 14.0.6 and not by 140. ``cuda_architectures``
    are compute capabilities without a prefix: "86", "90a". ``submodules`` are paths from TVM's
    root with their commits; one that is nested in a listed one need not be listed, since its
    parent's commit fixes it. ``llvm_config`` is the path that CMake was given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    profile: str
    device: Literal["cpu", "cuda"]
    tvm_from: Literal["wheel", "source"]
    tvm: str | None
    tvm_ffi: str
    torch: str
    cuda: bool = Field(description="TVM itself was built with CUDA")
    cuda_architectures: tuple[str, ...] = ()
    build_type: Literal["Debug", "RelWithDebInfo", "Release"] | None = None
    llvm_version: str | None = None
    llvm_config: str | None = None
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    submodules: dict[str, str] = {}
    cmake: str | None = Field(default=None, description='a range, as ">=3.24,<4"')
    gcc: str | None = None
    python: str | None = None
    nvcc: str | None = None
    budget_bytes: Annotated[int, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _a_source_build_promises_how(self) -> Expected:
        if self.tvm_from == "source":
            missing = [
                name
                for name in ("build_type", "llvm_version", "llvm_config", "commit")
                if getattr(self, name) is None
            ]
            if self.cuda and not self.cuda_architectures:
                missing.append("cuda_architectures")
            if missing:
                raise ValueError(f"a build from source must say: {', '.join(missing)}")
        return self


class Check(_Plain):
    """One promise: what was wanted, what was seen, and what mends it where they differ."""

    name: str
    ok: bool
    wanted: str
    seen: str
    hint: str | None = None


class Findings(_Plain):
    """What the image said of itself. ``facts`` is for readers; nothing is decided by it."""

    schema_version: Literal[1] = 1
    checks: tuple[Check, ...]
    facts: dict[str, Any] = {}
    seconds: Seconds = 0.0


class ContractRecord(_Plain):
    """One image checked once: ``results/contracts/<tag>.json``.

    ``size_bytes`` is what the image's layers take unpacked; ``build_stage_bytes`` what the stage
    that compiled TVM took, as it told itself, or None where nothing was compiled.
    """

    schema_version: Literal[1] = 1
    image: ImageRef
    profile: str
    created_at: datetime = Field(description="UTC")
    expected: Expected
    checks: Annotated[tuple[Check, ...], Field(min_length=1)]
    facts: dict[str, Any] = {}
    size_bytes: Bytes
    build_stage_bytes: Bytes | None = None
    seconds: Seconds

    @property
    def passed(self) -> bool:
        """Whether every promise was kept."""
        return all(check.ok for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The promises that were not."""
        return tuple(check for check in self.checks if not check.ok)
