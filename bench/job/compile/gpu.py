"""What only a GPU's pipeline needs of TVM, beside ``api``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from bench.job.compile import api, names


def kernel(name: str, body: Callable[[], None]) -> Any:
    """As ``api.prim_func``, for a body that binds its threads itself: dlight leaves it alone."""
    return api.prim_func(name, body).with_attr(names.SCHEDULED, True)


def transposed_products() -> list[Any]:
    """Products with a transposed operand as one kernel, in those TVMs that have such a pass.

    Without it the transpose is a kernel of its own, for which the weight is copied at every call.
    """
    found = getattr(api.relax.transform, "FuseTransposeMatmul", None)
    return [] if found is None else [found()]


@contextlib.contextmanager
def cuda_graphs(wanted: bool) -> Iterator[None]:
    """Have a GPU's finalizing passes put runs of kernels into CUDA graphs.

    Those whose arguments lie where they lay at the call before: weights and what the memory plan
    owns, not what the caller brings.
    """
    config = {"relax.backend.use_cuda_graph": True} if wanted else {}
    with api.tvm.transform.PassContext(config=config):
        yield
