"""What crosses between the host and the job: a spec goes in, an outcome comes back.

The host joins the outcome with what only it knows (run id, engine, image, git state) into a
``RunRecord``, the file ``record.json``. All are versioned, validated when read, and carry their
units in their names. Records ignore keys they do not know, so that a later version may add
optional ones under the same ``schema_version``; a spec refuses them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bench.account import Evaluation, Generation
from bench.catalog import (
    BACKENDS,
    CHOICES,
    DTYPES,
    KNOWN_BACKENDS,
    MODELS,
    MODES,
    WEIGHT_DTYPES,
    BertConfig,
    Geometry,
    GPTConfig,
)
from bench.cores import Cores
from bench.latency import Latency as Latency  # a record's part, for whoever reads records
from bench.operators import OperatorProfile
from bench.roofline import Energy, Peak, Roofline
from bench.system import SystemState
from bench.training import Training
from bench.tuning import Tuning

SCHEMA_VERSION = 1
MIN_SAMPLES = 10  # fewer cannot carry a p10 and a p90

Status = Literal["ok", "failed"]
RowStatus = Literal["ok", "failed", "skipped"]
Count = Annotated[int, Field(ge=1)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Weights(_Record):
    """A checkpoint that stands in for seeded weights.

    ``source`` says where it is from, for people; ``sha256`` is the digest of its content
    (``bench.checkpoint.digest``). ``geometry`` is what its config.json says, by the names of
    ``bench.catalog``; of a BERT where it has a ``type_vocab_size``.
    """

    source: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    geometry: dict[str, Count]

    @classmethod
    def of(cls, source: str, sha256: str, geometry: Geometry) -> Weights:
        return cls(source=source, sha256=sha256, geometry=dict(vars(geometry)))

    def config(self) -> Geometry:
        """The geometry, typed.

        Raises:
            TypeError: ``geometry`` has other keys than a geometry has.
        """
        kind = BertConfig if "type_vocab_size" in self.geometry else GPTConfig
        return kind(**self.geometry)


class RecordedSpec(_Record):
    """A spec as a record keeps it: readable whatever a later version may have run."""

    schema_version: Literal[1] = 1
    kind: str = "bench"
    model: str = "gpt2"
    mode: str = "prefill"
    device: str = "cpu"
    batch_size: Count = 1
    seq_len: Count = 64
    dtype: str = "float32"
    backends: tuple[str, ...] = Field(default=tuple(BACKENDS), min_length=1)
    repeats: Annotated[int, Field(ge=MIN_SAMPLES, le=100_000)] | None = Field(
        default=None,
        description="samples per backend; null takes at least 10, for at least 3 s, at most 100",
    )
    rounds: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1, description="fresh processes per backend, interleaved: A B C A B C ..."
    )
    threads: Count | None = Field(default=None, description="null takes every core the job sees")
    pin: Cores | None = Field(default=None, description="run on these alone; null pins nothing")
    operators: Literal["none", "table", "trace"] = Field(
        default="none", description="profile some calls after the timed ones; trace keeps each"
    )
    cuda_arch: str | None = Field(
        default=None, pattern=r"^sm_\d{2,3}a?$", description="null asks the GPU itself"
    )
    mcpu: str | None = Field(default=None, min_length=1, description="null: the CPU it runs on")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    timeout_s: Annotated[float, Field(gt=0)] = 3600.0
    layers: Count | None = Field(default=None, description="depth; null: the model's own")
    weights: Weights | None = Field(default=None, description="null: weights drawn by the seed")

    @property
    def named(self) -> str:
        """The model, and its depth where that is not its own."""
        return self.model if self.layers is None else f"{self.model} of {self.layers} layers"

    @property
    def known_geometry(self) -> Geometry | None:
        """The checkpoint's geometry, or the preset's at the depth asked for.

        None where this version knows neither: another one may have run it.
        """
        if self.weights is not None:
            try:
                return self.weights.config()
            except TypeError:
                return None
        preset = MODELS.get(self.model)
        if preset is None or self.layers is None:
            return preset
        return replace(preset, n_layer=self.layers)


class JobSpec(RecordedSpec):
    """Everything a job depends on. The same spec in the same image gives the same record.

    Unlike a spec that is read from a record, it refuses what this version cannot run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["bench", "compile"] = "bench"
    device: Literal["cpu", "cuda"] = "cpu"

    def recorded(self) -> RecordedSpec:
        """The same, as a record keeps it."""
        return RecordedSpec.model_validate(self.model_dump())

    @property
    def geometry(self) -> Geometry:
        """The model's geometry, which a spec that can run has."""
        assert self.known_geometry is not None
        return self.known_geometry

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what the host has to lay beside the spec."""
        return ("weights",) if self.weights else ()

    @field_validator("mode", "dtype")
    @classmethod
    def _known(cls, value: str, info: Any) -> str:
        known = {"mode": tuple(MODES), "dtype": DTYPES}[info.field_name]
        if value not in known:
            raise ValueError(f"unknown {info.field_name} '{value}'; choose one of: {_join(known)}")
        return value

    @field_validator("weights")
    @classmethod
    def _known_geometry(cls, value: Weights | None) -> Weights | None:
        try:
            if value is not None:
                value.config()
        except TypeError as error:
            raise ValueError(f"the weights' geometry cannot be read: {error}") from error
        return value

    @field_validator("backends")
    @classmethod
    def _known_backends(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in KNOWN_BACKENDS:
                raise ValueError(f"unknown backend '{name}'; choose from: {_join(CHOICES)}")
        if len(set(value)) != len(value):
            raise ValueError("a backend is named twice")
        return value

    @model_validator(mode="after")
    def _fits(self) -> JobSpec:
        if self.weights is None and self.model not in MODELS:
            raise ValueError(f"unknown model '{self.model}'; choose one of: {_join(MODELS)}")
        if self.weights is not None and self.layers is not None:
            raise ValueError("layers is set beside weights, which have a depth of their own")
        if not isinstance(self.geometry, MODES[self.mode]):
            fitting = [mode for mode, kind in MODES.items() if isinstance(self.geometry, kind)]
            raise ValueError(
                f"mode {self.mode} is not for {self.model}; choose --mode {_join(fitting)}"
            )
        block = self.geometry.block_size
        if self.seq_len > block:
            raise ValueError(
                f"seq_len {self.seq_len} is over the block size of {self.model}; "
                f"choose 1 to {block}"
            )
        if self.mode == "decode" and self.seq_len == block:
            raise ValueError(
                f"seq_len {self.seq_len} fills the block of {self.model} and leaves no room for "
                f"a token to decode; choose 1 to {block - 1}"
            )
        if self.cuda_arch and self.device != "cuda":
            raise ValueError("cuda_arch is set but the device is cpu; choose device cuda")
        return self


class Parity(_Record):
    """How far a backend's logits are from the float64 reference, over every gated call.

    ``max_abs_err`` is in logits; ``max_rel_err`` is that over the largest absolute reference
    logit; ``top1_agreement`` is the share of positions with the same most likely token. An
    error that is not a finite number is null. ``tolerance`` and ``top1_least`` are what was
    allowed. Of a backend whose weights are stored in fewer bits, ``of_stored`` is how far it is
    from the float64 reference of those very weights; if it has passed, it has passed both.
    """

    reference: str
    max_abs_err: float | None
    max_rel_err: float | None
    top1_agreement: Annotated[float, Field(ge=0, le=1)]
    passed: bool
    tolerance: float | None = None
    top1_least: float | None = None
    calls: int | None = None
    of_stored: Parity | None = None


class Result(_Record):
    """One backend's row. No latency stands in a row whose parity did not pass.

    ``latency_ms`` is one call: all positions of a prefill or an encoding, one token of a decode;
    there ``ttft_ms`` is the time to the first token, the prefill of the context, and
    ``tokens_per_s`` counts the tokens that are new.
    ``weight_dtype`` is the type that the matrices are stored in where that is not ``dtype``.
    ``peak_memory_mib`` is the peak resident memory of the backend's process on the host,
    compiling included; ``compile_cached`` tells that ``compile_s`` is from the run that
    compiled; ``tuning_s`` is what all searches for its programs took. ``operators`` says where a
    call's time goes, ``roofline`` how near it comes to what the machine can do. ``warmup_calls``
    has the calls thrown away before sampling, one number for each process; ``unstable`` says why
    the figures should not be quoted, if so.
    """

    backend: str
    model: str
    mode: str
    device: str
    batch_size: Count
    seq_len: Count
    dtype: str
    weight_dtype: str | None = None
    status: RowStatus
    reason: str | None = None
    compile_s: Annotated[float, Field(ge=0)] | None = None
    compile_cached: bool | None = None
    tuning_s: Annotated[float, Field(ge=0)] | None = None
    latency_ms: Latency | None = None
    ttft_ms: Latency | None = None
    tokens_per_s: Annotated[float, Field(ge=0)] | None = None
    peak_memory_mib: Annotated[float, Field(ge=0)] | None = None
    parity: Parity | None = None
    threads: int | None = None
    target: dict[str, Any] | None = None
    artefact: str | None = None
    roofline: Roofline | None = None
    energy: Energy | None = None
    operators: OperatorProfile | None = None
    warmup_calls: list[int] | None = None
    unstable: list[str] = []

    @classmethod
    def blank(cls, backend: str, spec: JobSpec) -> Result:
        """The row of ``backend`` with what the spec says of it, and nothing measured."""
        return cls(
            backend=backend,
            model=spec.named,
            mode=spec.mode,
            device=spec.device,
            batch_size=spec.batch_size,
            seq_len=spec.seq_len,
            dtype=spec.dtype,
            weight_dtype=WEIGHT_DTYPES.get(backend),
            status="ok",
        )

    @model_validator(mode="after")
    def _no_latency_without_parity(self) -> Result:
        gated = self.status == "ok" and self.parity is not None and self.parity.passed
        if (self.latency_ms or self.ttft_ms) is not None and not gated:
            raise ValueError("latency_ms stands beside a parity that did not pass")
        return self


class TvmLibrary(_Record):
    """The TVM library that was mapped into the measured process, as the kernel names it.

    ``build_id`` is TVM's version with the ELF build id, or the sha256 where it has none.
    """

    path: str
    build_id: str


class Environment(_Record):
    """Where the job ran, seen from inside it. ``memory_mib`` is what the job may use."""

    cpu: str
    cores: int
    memory_mib: int
    gpu: str | None = None
    driver: str | None = None
    kernel: str
    python: str
    packages: dict[str, str]
    git_commit: str | None = None
    git_dirty: bool | None = None
    tvm_library: TvmLibrary | None = None
    before: SystemState | None = None
    after: SystemState | None = None
    peak: Peak | None = None


class Fault(_Record):
    """An expected failure inside the job, carried to the user by the host."""

    message: str
    hint: str | None = None
    exit_code: int = 1

    @property
    def told(self) -> str:
        """Both, where there is but one line for them."""
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message


class StepReport(_Record):
    """What one step of a job, in its own process, tells the job."""

    result: Result | None = None
    fault: Fault | None = None
    tvm_library: TvmLibrary | None = None
    peak: Peak | None = None
    training: Training | None = None
    generation: Generation | None = None
    evaluation: Evaluation | None = None
    tuning: Tuning | None = None


class JobOutcome(_Record):
    """What the job hands back; rewritten after every backend, so that a kill loses one row."""

    schema_version: Literal[1] = 1
    environment: Environment
    results: list[Result] = []
    training: Training | None = None
    generation: Generation | None = None
    evaluations: list[Evaluation] = []
    tuning: Tuning | None = None
    fault: Fault | None = None
    finished: bool = False


class ImageRef(_Record):
    """The image a job ran in. ``id`` is the engine's, ``digest`` that of the manifest."""

    id: str
    digest: str | None
    tag: str
    labels: dict[str, str]


class RunRecord(_Record):
    """``record.json``: one run, whole."""

    schema_version: Literal[1] = 1
    run_id: str
    status: Status
    reason: str | None
    engine: str
    image: ImageRef | None
    content: str | None = Field(default=None, description="sha256 of local code and locks that ran")
    environment: Environment | None
    spec: RecordedSpec
    results: list[Result]
    training: Training | None = None
    generation: Generation | None = None
    evaluations: list[Evaluation] = []
    tuning: Tuning | None = None


def _join(names: Any) -> str:
    return ", ".join(names)
