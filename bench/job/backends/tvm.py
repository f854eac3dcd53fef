"""TVM, through each of the named pipelines; compiled artefacts are kept and found again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.errors import UsageFault
from bench.job import artefacts
from bench.job.artefacts import Artefact
from bench.job.backends.base import Compiled, Prepared, Program, Programs
from bench.job.compile import build, target
from bench.job.compile.pipelines import TUNED
from bench.job.compile.target import CompileTarget
from bench.job.profile.events import Recording
from bench.job.profile.instrument import Instrument
from bench.job.tune import database
from bench.record import JobSpec


class TvmReady:
    """Loaded TVM libraries behind the shape of ``Ready``."""

    profiler = f"TVM {build.tvm_version()}, the virtual machine's instrument"

    def __init__(self, programs: Mapping[str, build.Loaded]) -> None:
        self.programs = programs
        self._any = next(iter(programs.values()))

    def stage(self, tensor: torch.Tensor) -> Any:
        return self._any.prepare(tensor.numpy())

    def run(self, program: str, *staged: Any) -> tuple[Any, ...]:
        return self.programs[program].run(*staged)

    def view(self, value: Any) -> torch.Tensor:
        return torch.utils.dlpack.from_dlpack(value)

    def synchronize(self) -> None:
        self._any.synchronize()

    def cuda_stream(self) -> int | None:
        return self._any.cuda_stream()

    def record(self, call: Callable[[], object], again: Callable[[], bool]) -> list[Recording]:
        # An instrument cannot be taken off again: these are machines of its own.
        instrument = Instrument(self.synchronize)
        plain = self.programs
        self.programs = {name: one.instrumented(instrument) for name, one in plain.items()}
        try:
            return instrument.record(call, again)
        finally:
            self.programs = plain


ON_CPU = {"cpu": build.FLOATS["llvm"]}
ON_GPU = {"cuda": build.FLOATS["cuda"]}


@dataclass(frozen=True)
class Tvm:
    """The TVM backend that compiles with ``pipeline``."""

    pipeline: str
    slow_by_nature: bool = False
    dtypes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {**ON_CPU, **ON_GPU})

    def prepare(self, spec: JobSpec, programs: Programs) -> Prepared:
        compile_target = target_of(spec)
        target.require_here(compile_target.mcpu)  # before the minutes that compiling takes
        done = self._artefacts(spec, programs, compile_target)
        # Functions of one model take the same parameters: they are on the device once.
        shared: dict[str, build.Parameters] = {}
        loaded = {}
        for name, artefact in done.items():
            target.require_here(str(artefact.target.get("mcpu", compile_target.mcpu)))
            if artefact.params_digest not in shared:
                shared[artefact.params_digest] = build.Parameters(artefact.params, spec.device)
            loaded[name] = build.load(artefact.library, shared[artefact.params_digest])
        return Prepared(
            TvmReady(loaded),
            compile_s=sum(artefact.compile_s for artefact in done.values()),
            compile_cached=all(artefact.cached for artefact in done.values()),
            tuning_s=_tuning_s(spec, programs, compile_target) if self.pipeline == TUNED else None,
            target=compile_target.to_dict(),
            artefact=_names(done),
        )

    def compile_only(self, spec: JobSpec, programs: Programs) -> Compiled:
        compile_target = target_of(spec)
        done = self._artefacts(spec, programs, compile_target)
        return Compiled(
            artefact=_names(done),
            compile_s=sum(artefact.compile_s for artefact in done.values()),
            compile_cached=all(artefact.cached for artefact in done.values()),
            target=compile_target.to_dict(),
        )

    def _artefacts(
        self, spec: JobSpec, programs: Programs, compile_target: CompileTarget
    ) -> dict[str, Artefact]:
        return {
            name: self._artefact(spec, name, program, compile_target)
            for name, program in programs.items()
        }

    def _artefact(
        self, spec: JobSpec, name: str, program: Program, compile_target: CompileTarget
    ) -> Artefact:
        parts: dict[str, Any] = {
            "tvm": build.tvm_build_id(),
            "torch": torch.__version__,  # it exports the program
            "sources": build.sources_digest(),
            "pipeline": self.pipeline,
            "target": compile_target.to_dict(),
            # What decides the parameters: a checkpoint, or else the seed.
            "weights": spec.weights.sha256 if spec.weights else spec.seed,
            **program_parts(spec, name, program),
        }
        root = artefacts.store_root()
        tuned = None
        if self.pipeline == TUNED:
            tuned = _tuned(compile_target).read(_tuned_key(spec, name, program), spec)
            parts["database"] = tuned.digest
        key = artefacts.key_of(parts)
        found = artefacts.get(root, key)
        if found is not None:
            return found
        typed = program.to(spec.dtype)
        compiled = build.compile_module(
            typed.module,
            typed.example,
            self.pipeline,
            compile_target,
            tuned.traces if tuned else None,
        )
        return artefacts.put(
            root, key, parts, compiled.export_library, compiled.params, compiled.compile_s
        )


def _tuned(compile_target: CompileTarget) -> database.Database:
    return database.of(artefacts.store_root(), build.tvm_build_id(), compile_target.to_dict())


def _tuned_key(spec: JobSpec, name: str, program: Program) -> str:
    return database.program_key(program_parts(spec, name, program))


def _tuning_s(spec: JobSpec, programs: Programs, compile_target: CompileTarget) -> float | None:
    """How long the searches for these programs took; None where their log is gone or damaged."""
    keys = [_tuned_key(spec, name, program) for name, program in programs.items()]
    try:
        trials = database.read_trials(_tuned(compile_target).log(keys))
    except database.Damaged:  # what is taken is in other files
        return None
    return database.spent_s(trials) if trials else None


def _names(done: Mapping[str, Artefact]) -> str:
    """The artefacts' keys, in the programs' order."""
    return ",".join(artefact.key for artefact in done.values())


def program_parts(spec: JobSpec, name: str, program: Program) -> dict[str, Any]:
    """What decides a program's kernels, but for the compiler and the target."""
    return {
        "model": vars(spec.geometry),
        "program": name,
        "shapes": [list(tensor.shape) for tensor in program.example],
        "dtype": spec.dtype,
    }


def target_of(spec: JobSpec) -> CompileTarget:
    """The target that the spec asks for; what it leaves open is asked of the machine."""
    if spec.device == "cpu":
        return target.detect_cpu(spec.threads, spec.mcpu)
    return target.cuda(spec.cuda_arch or _gpu_arch(), spec.mcpu)


def _gpu_arch() -> str:
    if not torch.cuda.is_available():
        raise UsageFault(
            "no GPU to ask for its architecture",
            hint="name one to compile without a GPU: invoke compile --cuda-arch sm_86",
        )
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


TVM_NONE = Tvm("none", slow_by_nature=True)
TVM_DEFAULT = Tvm("default")
TVM_OPTIMIZED = Tvm("optimized")
TVM_TUNED = Tvm("tuned", dtypes=ON_CPU)
TVM_BF16 = Tvm("bf16", dtypes=ON_CPU)
TVM_INT8 = Tvm("int8", dtypes=ON_CPU)

# The rungs between "none" and "optimized". Without our kernels they are as slow as the first.
TVM_LADDER_FUSED = Tvm("ladder-fused", slow_by_nature=True)
TVM_LADDER_DLIGHT = Tvm("ladder-dlight", slow_by_nature=True)
TVM_LADDER_KERNELS = Tvm("ladder-kernels", dtypes=ON_CPU)
TVM_LADDER_PACKED = Tvm("ladder-packed", dtypes=ON_CPU)
TVM_LADDER_EPILOGUES = Tvm("ladder-epilogues", dtypes=ON_CPU)
TVM_LADDER_WEIGHTS = Tvm("ladder-weights", dtypes=ON_GPU)
TVM_LADDER_ATTENTION = Tvm("ladder-attention", dtypes=ON_GPU)
TVM_LADDER_CUBLAS = Tvm("ladder-cublas", dtypes=ON_GPU)
