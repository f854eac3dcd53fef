"""CUDA C run on the CPU: the threads of a block are fibers that take turns at each barrier.

What runs is the very text that nvcc would get, so that indices, barriers and sums are checked
where no GPU is. A barrier that not all threads of a block reach, which hangs a GPU, is an error
here; and the threads can run in the opposite order, which a missing barrier shows in. Not here:
tensor cores, warp shuffles, anything asynchronous. Shared memory keeps what the block before left,
as on a GPU.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.job.compile import api
from bench.job.compile.target import CompileTarget

SHIM = r"""
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(n)
#define alignas(n)
#define __syncthreads() wait_for_all()
struct Index { int x, y, z; };
static Index blockIdx, threadIdx;
template <class A> static A max(A a, A b) { return a < b ? b : a; }
template <class A> static A min(A a, A b) { return b < a ? b : a; }

struct half {  // IEEE binary16: computed in float, rounded after every operation
  uint16_t bits;
  half() {}
  half(float f) {
    uint32_t x; memcpy(&x, &f, 4);
    uint32_t sign = (x >> 16) & 0x8000u; x &= 0x7fffffffu;
    if (x >= 0x7f800001u) { bits = sign | 0x7e00u; return; }
    if (x >= 0x477ff000u) { bits = sign | 0x7c00u; return; }
    if (x < 0x38800000u) {  // subnormal: the nearest multiple of 2**-24
      bits = sign | (uint32_t)nearbyintf(fabsf(f) * 16777216.0f); return;
    }
    x += 0xc8000fffu + ((x >> 13) & 1);
    bits = sign | (x >> 13);
  }
  operator float() const {
    uint32_t e = (bits >> 10) & 31, m = bits & 1023;
    float v = e == 31 ? (m ? NAN : INFINITY) : e ? ldexpf(1024 + m, (int)e - 25) : ldexpf(m, -24);
    return bits & 0x8000 ? -v : v;
  }
};

static ucontext_t scheduler, *fibers; static char *waiting; static int running;
static void wait_for_all() {
  int me = running; waiting[me] = 1;
  Index mine = threadIdx;
  swapcontext(&fibers[me], &scheduler);
  threadIdx = mine;
}
static void (*body)();
static void fiber() { body(); waiting[running] = 2; }

static int launch(void (*kernel)(), int blocks, int threads, int backwards) {
  const size_t stack = 64 << 10;
  fibers = new ucontext_t[threads]; waiting = new char[threads]; body = kernel;
  char *stacks = (char *)malloc(stack * threads);
  int status = 0;
  for (int b = 0; b < blocks && !status; ++b) {
    blockIdx = {backwards ? blocks - 1 - b : b, 0, 0};
    for (int t = 0; t < threads; ++t) {
      getcontext(&fibers[t]);
      fibers[t].uc_stack.ss_sp = stacks + t * stack; fibers[t].uc_stack.ss_size = stack;
      fibers[t].uc_link = &scheduler; waiting[t] = 0;
      makecontext(&fibers[t], fiber, 0);
    }
    for (int done = 0; done < threads && !status;) {
      done = 0;
      for (int i = 0; i < threads; ++i) {
        running = backwards ? threads - 1 - i : i;
        threadIdx = {running, 0, 0};
        swapcontext(&scheduler, &fibers[running]);
        done += waiting[running] == 2;
      }
      if (done && done < threads) status = 1;  // some wait for a barrier, others have gone home
    }
  }
  free(stacks); delete[] fibers; delete[] waiting;
  return status;
}
"""


class DivergentBarrier(Exception):
    """Some threads of a block wait where others never come."""


@dataclass(frozen=True)
class Emulated:
    """A kernel that takes its arrays in the order of the TensorIR function's arguments."""

    library: ctypes.CDLL

    def __call__(self, *arrays: np.ndarray, backwards: bool = False) -> None:
        """Run it; the last array is the output.

        Raises:
            DivergentBarrier: as it says.
        """
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in arrays]
        if self.library.run(int(backwards), *pointers):
            raise DivergentBarrier


def cuda_source(kernel: Any, target: CompileTarget) -> str:
    """The CUDA C that TVM writes for a TensorIR function."""
    with target.tvm():
        built = api.tvm.compile(kernel.with_attr("global_symbol", "kernel"), target.tvm())
    (source,) = cuda_sources(built)
    return source


def cuda_sources(built: Any) -> list[str]:
    """The CUDA C in what TVM built, whether it was compiled further or not."""
    found, modules = [], [built.mod]
    while modules:
        module = modules.pop()
        modules.extend(module.imports)
        if module.kind == "cuda":
            found.append(str(module.inspect_source("cuda")))
    return found


def extents(kernel: Any) -> dict[str, int]:
    """How many blocks and threads a TensorIR function asks for."""
    found: dict[str, int] = {}
    for name, size in re.findall(r'launch_thread\("([\w.]+)", (\d+)\)', kernel.script()):
        found[name] = int(size)
    return found


def emulate(kernel: Any, source: str, folder: Path) -> Emulated:
    """``source``, which is ``kernel``'s, compiled for the CPU in ``folder``."""
    size = extents(kernel)
    assert set(size) == {"blockIdx.x", "threadIdx.x"}, size
    text = source[source.index('extern "C"') :]
    (signature,) = set(re.findall(r"(\w+)\(([^)]*)\)\s*\{", text[: text.index("{") + 1]))
    name, parameters = signature
    # The parameters of the CUDA function are sorted; those of the TensorIR function are not.
    wanted = [re.sub(r"_(ptr|handle)$", "", param.name) for param in kernel.params]
    typed = re.findall(r"(\w+)\* __restrict__ (\w+?)(?:_ptr)?(?=,|$)", parameters)
    types = {name: kind for kind, name in typed}
    order = [re.sub(r"_ptr$", "", word) for word in re.findall(r"(\w+)(?=,|$)", parameters)]
    assert sorted(order) == sorted(wanted), (order, wanted)
    globals_ = "\n".join(f"static {types[one]}* arg_{one};" for one in wanted)
    taken = ", ".join(f"void* p_{one}" for one in wanted)
    kept = " ".join(f"arg_{one} = ({types[one]}*)p_{one};" for one in wanted)
    passed = ", ".join(f"arg_{one}" for one in order)
    call = f"static void call() {{ {name}({passed}); }}"
    text = text.replace("__restrict__", "__restrict").replace("int64_t", "long")
    run = (
        f'extern "C" int run(int backwards, {taken}) {{ {kept} '
        f"return launch(call, {size['blockIdx.x']}, {size['threadIdx.x']}, backwards); }}"
    )
    path = folder / "kernel.cc"
    path.write_text("\n".join([SHIM, text, globals_.replace("int64_t", "long"), call, run]))
    library = folder / "kernel.so"
    done = subprocess.run(
        ["g++", "-O1", "-w", "-shared", "-fPIC", str(path), "-o", str(library)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[:4000]
    return Emulated(ctypes.CDLL(str(library)))
