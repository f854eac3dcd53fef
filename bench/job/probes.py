"""One question to TVM in a process of its own: ``python -m bench.job.probes QUESTION OUT [ARCH]``.

A library that crashes takes its process with it; the contract asks from outside and reads what
each left in OUT, as JSON. A question that fails says so by an exit status and its traceback.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.build import elf
from bench.errors import BenchError
from bench.job import driver

MODEL = "gpt-nano"
SEQ_LEN = 16
PIPELINE = "optimized"


def identity() -> dict[str, Any]:
    """What TVM says of itself, its versions, and the libraries that it was loaded from."""
    tvm = importlib.import_module("tvm")
    tvm_ffi = importlib.import_module("tvm_ffi")
    codegen = importlib.import_module("tvm.target.codegen")

    def registered(name: str) -> bool:
        return tvm.get_global_func(name, allow_missing=True) is not None

    libraries = mapped()
    folders = {Path(library["path"]).parent for library in libraries.values()}
    return {
        "tvm": str(tvm.__version__),
        "tvm_ffi": str(tvm_ffi.__version__),
        "torch": importlib.metadata.version("torch"),  # not beside tvm: that is asked apart
        "libinfo": {str(key): str(value) for key, value in tvm.support.libinfo().items()},
        # From v0.25 on libinfo() is no answer of the library: it says ON whatever was compiled.
        "libinfo_is_native": registered("support.GetLibInfo"),
        "llvm_generator": registered("target.build.llvm"),
        "llvm_major": codegen.llvm_version_major(allow_none=True),
        # There the part that needs CUDA is a library of its own, which loads where a driver is.
        "cuda_runtime": any((folder / "libtvm_runtime_cuda.so").is_file() for folder in folders),
        "libraries": libraries,
    }


def mapped() -> dict[str, dict[str, str]]:
    """TVM's libraries in this process as the kernel names them, each with its build id."""
    found: dict[str, dict[str, str]] = {}
    for row in Path("/proc/self/maps").read_text().splitlines():
        fields = row.split(maxsplit=5)
        path = Path(fields[5]) if len(fields) == 6 else Path()
        if path.name.startswith("libtvm") and path.name not in found:
            found[path.name] = {"path": str(path), "build_id": elf.build_id(path)}
    return found


def tvm_then_torch() -> dict[str, Any]:
    """Both imported, tvm first, and both at work."""
    importlib.import_module("tvm")
    importlib.import_module("torch")
    return _both()


def torch_then_tvm() -> dict[str, Any]:
    """Both imported, torch first, and both at work."""
    importlib.import_module("torch")
    importlib.import_module("tvm")
    return _both()


def _both() -> dict[str, Any]:
    import torch

    from bench.job.compile import api, target

    cpu = target.detect_cpu()  # asks the LLVM inside TVM
    eye = torch.eye(4) @ torch.eye(4)
    same = (api.tensor(eye.numpy(), api.device("cpu")).numpy() == eye.numpy()).all()
    if not same:
        raise AssertionError("a matrix changed on its way from torch to tvm")
    return {"mcpu": cpu.mcpu, "features": list(cpu.features)}


def gpt_cpu() -> dict[str, Any]:
    """A small GPT compiled for this CPU, loaded from its library, and gated as any backend is."""
    from bench.job import gpt, modes, reference
    from bench.job.backends.tvm import TvmReady
    from bench.job.compile import build, target
    from bench.record import JobSpec

    spec = JobSpec(model=MODEL, seq_len=SEQ_LEN)
    model = gpt.build(gpt.preset(MODEL), spec.seed)
    tokens = gpt.tokens_for(model.config, 1, SEQ_LEN, spec.seed)
    compiled = build.compile_module(model, (tokens,), PIPELINE, target.detect_cpu())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compiled.export_library(folder / "model.so")
        params = build.Parameters(compiled.params, spec.device)
        ready = TvmReady({modes.FORWARD: build.load(folder / "model.so", params)})
        reference.write(spec, model, folder)
        parity = reference.gate(spec, modes.start(spec, ready).logits, folder)
    return {"compile_s": compiled.compile_s, "parity": parity.model_dump()}


def gpt_cuda(arch: str) -> dict[str, Any]:
    """The same compiled for a GPU of compute capability ``arch`` ("86"), and not run."""
    from bench.job import gpt
    from bench.job.compile import build, target

    model = gpt.build(gpt.preset(MODEL), 0)
    tokens = gpt.tokens_for(model.config, 1, SEQ_LEN, 0)
    compiled = build.compile_module(model, (tokens,), PIPELINE, target.cuda(f"sm_{arch}"))
    return {"compile_s": compiled.compile_s}


QUESTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "identity": identity,
    "tvm-then-torch": tvm_then_torch,
    "torch-then-tvm": torch_then_tvm,
    "gpt-cpu": gpt_cpu,
    "gpt-cuda": gpt_cuda,
}


def main(argv: list[str]) -> int:
    question, out, *arguments = argv
    begin = time.monotonic()
    try:
        stub = driver.ensure()
        answer = QUESTIONS[question](*arguments)
    except BenchError as error:
        print(f"{error.message} (hint: {error.hint})", file=sys.stderr)
        return error.exit_code
    answer |= {"driver_stub": stub, "seconds": round(time.monotonic() - begin, 2)}
    Path(out).write_text(json.dumps(answer))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
