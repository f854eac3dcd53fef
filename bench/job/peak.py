"""What the machine can do at best: the fastest matrix product, and the fastest read of memory.

Measured in a run's own process, on its device and threads and in its dtype, by the libraries that
its backends may use. A peak is the best ever seen: whatever else happens on a machine only ever
makes it slower. So several libraries, shapes and kernels are tried, and the best is asked for again
and again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bench import limits
from bench.job.backends.torch_eager import require_device
from bench.record import JobSpec
from bench.roofline import Peak

MIB = 2**20
# A thread pool was seen to run at half its speed for its first 2.3 s on two shared cores.
BUDGET_S = 2.5
_EXPLORING = 0.5  # of the budget: the rest is for what was best
_TRIES = 3
_LEAST = 256  # a square this small takes milliseconds on whatever there is
_SURE = 512  # up to this one whatever the machine's load: two milliseconds of a quiet one
_MOST = {"cpu": 4096, "cuda": 8192}
_STREAM_BYTES = {"cpu": 256 * MIB, "cuda": 2048 * MIB}  # at least, where memory allows
_OF_MEMORY = 8  # the stream takes no more than this part of it
_PAST_CACHES = 4  # times their size: of a smaller array a part would be found in them
_ROWS = 4096  # of the stream as a matrix
_KEPT = 2  # of each kind, to be asked again


@dataclass
class Candidate:
    """One way to do it, of ``amount`` operations or bytes a call, and its best call so far."""

    name: str
    amount: float
    call: Callable[[], object]
    best_s: float = math.inf
    calls: int = 0

    def go(self, synchronize: Callable[[], None]) -> float:
        """Call once, keep the time if it is the best, and give it, in seconds."""
        synchronize()
        begin = time.perf_counter()
        self.call()
        synchronize()
        taken = max(time.perf_counter() - begin, 1e-9)
        self.calls += 1
        self.best_s = min(self.best_s, taken)
        return taken

    @property
    def rate(self) -> float:
        """Work a second, at best."""
        return self.amount / self.best_s


def measure(spec: JobSpec, budget_s: float = BUDGET_S) -> Peak:
    """The peak on the spec's device, in its dtype, on the threads that PyTorch has.

    It takes about ``budget_s`` seconds; on a machine where one small product takes longer, that.

    Raises:
        UsageFault: the device is cuda and PyTorch sees none.
    """
    require_device(spec.device)
    synchronize = torch.cuda.synchronize if spec.device == "cuda" else _nothing
    size = stream_bytes(spec.device)
    with torch.inference_mode():
        started = time.perf_counter()
        streams = reads(spec.device, size)
        for stream in streams:
            for _ in range(_TRIES):  # the first call is dearer: threads start
                stream.go(synchronize)
        products: list[Candidate] = []
        for n in _squares(spec.device):
            squares = gemms(spec.device, spec.dtype, n)
            for product in squares:
                for _ in range(_TRIES):
                    product.go(synchronize)
            products += squares
            # The next does eight times the work; half of the budget is for what was best.
            spent = time.perf_counter() - started
            next_s = _TRIES * 8 * sum(one.best_s for one in squares)
            if next_s > budget_s * _EXPLORING - spent and n >= _SURE:
                break
            if next_s > budget_s:  # no library for this type
                break
        while (left := budget_s - (time.perf_counter() - started)) > 0:
            chosen = [one for one in (*_best(products), *_best(streams)) if one.best_s < left]
            if not chosen:
                break
            for one in chosen:
                one.go(synchronize)
    product, stream = _best(products)[0], _best(streams)[0]
    threads = "" if spec.device == "cuda" else f", {torch.get_num_threads()} threads"
    return Peak(
        gemm_gflops=product.rate / 1e9,
        gemm=f"{product.name} {spec.dtype}{threads}, best of {product.calls}",
        read_gb_s=stream.rate / 1e9,
        read=f"{stream.name} over {size // MIB} MiB{threads}, best of {stream.calls}",
    )


def gemms(device: str, dtype: str, n: int) -> list[Candidate]:
    """Products of two squares of ``n`` x ``n``, each by one library as it does it by default.

    PyTorch's own (MKL) was seen to reach half of what OpenBLAS and oneDNN do on an AMD processor
    with AVX-512, so that one library's best would not be the machine's.
    """
    kind = getattr(torch, dtype)
    a = torch.randn(n, n, device=device).to(kind)
    b = torch.randn(n, n, device=device).to(kind)
    out = torch.empty(n, n, device=device, dtype=kind)
    ways: dict[str, Callable[[], object]] = {"torch.mm": lambda: torch.mm(a, b, out=out)}
    if device == "cpu" and kind is torch.float32:
        x, w, y = a.numpy(), b.numpy(), out.numpy()
        ways["numpy.matmul"] = lambda: np.matmul(x, w, out=y)
        if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # theirs
            packed, weight = a.to_mkldnn(), b.to_mkldnn()
            ways["oneDNN's linear"] = lambda: torch.nn.functional.linear(packed, weight)
    return [Candidate(f"{name} of {n}x{n}", 2.0 * n**3, call) for name, call in ways.items()]


def reads(device: str, size: int) -> list[Candidate]:
    """Reductions of ``size`` bytes to next to nothing, so that reading is all that takes time.

    Which of them comes nearest to the memory's bandwidth differs by machine and by version.
    """
    data = torch.ones(size // 4, device=device)  # written, so that every page is there
    matrix = data.view(_ROWS, -1)
    ones = torch.ones(matrix.shape[1], device=device)
    ways: dict[str, Callable[[], object]] = {
        "torch.sum": data.sum,
        "torch.sum of rows": lambda: matrix.sum(dim=1),
        "torch.max": data.max,
        "torch.dot": lambda: torch.dot(data, data),  # what it reads twice is in a register
        "torch.mv": lambda: torch.mv(matrix, ones),
    }
    return [Candidate(name, float(size), call) for name, call in ways.items()]


def stream_bytes(device: str) -> int:
    """How much to read: several times the caches, at least a quarter GiB, as far as memory goes."""
    if device == "cuda":
        memory = torch.cuda.mem_get_info()[0]
        wanted = _STREAM_BYTES[device]
    else:
        memory = limits.memory_bytes()
        wanted = max(_STREAM_BYTES[device], _PAST_CACHES * limits.cache_bytes())
    block = _ROWS * 4 * 1024
    return max(min(wanted, memory // _OF_MEMORY) // block, 1) * block


def _squares(device: str) -> list[int]:
    sizes = [_LEAST]
    while sizes[-1] < _MOST[device]:
        sizes.append(2 * sizes[-1])
    return sizes


def _best(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The fastest few, the fastest first."""
    return sorted(candidates, key=lambda one: -one.rate)[:_KEPT]


def _nothing() -> None:
    """What there is to wait for on a CPU."""
