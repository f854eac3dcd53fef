"""TVM, through each of the named pipelines; compiled artefacts are kept and found again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.catalog import MODELS
from bench.errors import UsageFault
from bench.job import artefacts, gpt
from bench.job.artefacts import Artefact
from bench.job.backends.base import Compiled, Prepared
from bench.job.compile import build, target
from bench.job.compile.target import CompileTarget
from bench.record import JobSpec


class TvmReady:
    """A loaded TVM library behind the shape of ``Ready``."""

    def __init__(self, loaded: build.Loaded) -> None:
        self._loaded = loaded

    def stage(self, tokens: torch.Tensor) -> Any:
        return self._loaded.prepare(tokens.numpy())

    def run(self, staged: Any) -> Any:
        return self._loaded.run(staged)

    def synchronize(self) -> None:
        self._loaded.synchronize()

    def logits(self, output: Any) -> np.ndarray:
        array: np.ndarray = output.numpy()
        return array


@dataclass(frozen=True)
class Tvm:
    """The TVM backend that compiles with ``pipeline``."""

    pipeline: str
    slow_by_nature: bool = False

    def prepare(self, spec: JobSpec, model: gpt.GPT, tokens: torch.Tensor) -> Prepared:
        compile_target = target_of(spec)
        artefact = self._artefact(spec, model, tokens, compile_target)
        loaded = build.load(artefact.library, artefact.params, spec.device)
        return Prepared(
            TvmReady(loaded),
            compile_s=artefact.compile_s,
            compile_cached=artefact.cached,
            target=compile_target.to_dict(),
            artefact=artefact.key,
        )

    def compile_only(self, spec: JobSpec, model: gpt.GPT, tokens: torch.Tensor) -> Compiled:
        compile_target = target_of(spec)
        artefact = self._artefact(spec, model, tokens, compile_target)
        return Compiled(artefact.key, artefact.compile_s, artefact.cached, compile_target.to_dict())

    def _artefact(
        self, spec: JobSpec, model: gpt.GPT, tokens: torch.Tensor, compile_target: CompileTarget
    ) -> Artefact:
        geometry = MODELS[spec.model]
        parts = {
            "tvm": build.tvm_build_id(),
            "torch": torch.__version__,  # it exports the program
            "sources": build.sources_digest(),
            "pipeline": self.pipeline,
            "target": compile_target.to_dict(),
            "model": vars(geometry),
            "seed": spec.seed,  # it decides the parameters
            "mode": spec.mode,
            "shape": list(tokens.shape),
            "dtype": spec.dtype,
        }
        root, key = artefacts.store_root(), artefacts.key_of(parts)
        found = artefacts.get(root, key)
        if found is not None:
            return found
        compiled = build.compile_module(model, (tokens,), self.pipeline, compile_target)
        return artefacts.put(
            root, key, parts, compiled.export_library, compiled.params, compiled.compile_s
        )


def target_of(spec: JobSpec) -> CompileTarget:
    """The target that the spec asks for; what it leaves open is asked of the machine."""
    if spec.device == "cpu":
        return target.detect_cpu(spec.threads)
    return target.cuda(spec.cuda_arch or _gpu_arch())


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
