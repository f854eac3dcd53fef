"""Generating and evaluating: what is asked of a job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bench.catalog import CHOICES, GPTConfig
from bench.record import RecordedSpec, Weights


class _OnWeights(BaseModel):
    """What generating and evaluating have in common: a checkpoint, and where it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    weights: Weights
    model: str
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32"] = "float32"
    threads: Annotated[int, Field(ge=1)] | None = None
    cuda_arch: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    timeout_s: Annotated[float, Field(gt=0)] = 3600.0

    @property
    def geometry(self) -> GPTConfig:
        """The checkpoint's geometry."""
        config = self.weights.config()
        assert isinstance(config, GPTConfig)  # what the validator has seen to
        return config

    @field_validator("weights")
    @classmethod
    def _a_gpt(cls, value: Weights) -> Weights:
        if not isinstance(value.config(), GPTConfig):
            raise ValueError(f"{value.source} is no GPT: it does not continue text")
        return value


class GenerateSpec(_OnWeights):
    """Continue ``prompt`` by ``tokens`` tokens. No prompt means one token of index 0."""

    kind: Literal["generate"] = "generate"
    backend: str = "torch-eager"
    prompt: str | None = None
    tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None

    @property
    def backends(self) -> tuple[str, ...]:
        return (self.backend,)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what the host has to lay beside the spec."""
        return ("weights",)

    @field_validator("backend")
    @classmethod
    def _known_backend(cls, value: str) -> str:
        if value not in CHOICES:
            raise ValueError(f"unknown backend '{value}'; choose from: {', '.join(CHOICES)}")
        return value

    def recorded(self) -> RecordedSpec:
        """The same, as a record keeps it."""
        return _recorded(self, self.backends)


class EvaluateSpec(_OnWeights):
    """The loss on the validation split of the text that is laid beside the spec."""

    kind: Literal["evaluate"] = "evaluate"
    backends: tuple[str, ...] = Field(default=("torch-eager", "tvm-optimized"), min_length=1)
    text_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    batches: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="batches of eight blocks to look at; null takes the whole split"
    )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what the host has to lay beside the spec."""
        return ("weights", "text")

    @model_validator(mode="after")
    def _known_backends(self) -> EvaluateSpec:
        for name in self.backends:
            if name not in CHOICES:
                raise ValueError(f"unknown backend '{name}'; choose from: {', '.join(CHOICES)}")
        return self

    def recorded(self) -> RecordedSpec:
        """The same, as a record keeps it."""
        return _recorded(self, self.backends)


def _recorded(spec: GenerateSpec | EvaluateSpec, backends: tuple[str, ...]) -> RecordedSpec:
    return RecordedSpec(
        kind=spec.kind,
        model=spec.model,
        mode="decode" if spec.kind == "generate" else "prefill",
        device=spec.device,
        seq_len=spec.geometry.block_size,
        dtype=spec.dtype,
        backends=backends,
        threads=spec.threads,
        cuda_arch=spec.cuda_arch,
        seed=spec.seed,
        timeout_s=spec.timeout_s,
        weights=spec.weights,
    )
