"""What only a GPU's pipeline needs of TVM, beside ``api``."""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from bench.errors import NotHere
from bench.job.compile import api, names

# What a TVM with USE_CUBLAS has: the code generator, and what that makes of a function.
CUBLAS = ("relax.ext.cublas", "runtime.CublasJSONRuntimeCreate")
# Its patterns with GELU are left out: they match the one by erf, and cuBLAS has the one by tanh.
# The last one is tried first: each takes more than the one above it.
_CUBLAS_PATTERNS = (
    "cublas.matmul",
    "cublas.matmul_bias",
    "cublas.matmul_transposed",
    "cublas.matmul_transposed_bias",
)


def kernel(name: str, body: Callable[[], None]) -> Any:
    """As ``api.prim_func``, for a body that binds its threads itself: dlight leaves it alone."""
    return api.prim_func(name, body).with_attr(names.SCHEDULED, True)


def transposed_products() -> list[Any]:
    """Products with a transposed operand as one kernel, in those TVMs that have such a pass.

    Without it the transpose is a kernel of its own, for which the weight is copied at every call.
    """
    found = getattr(api.relax.transform, "FuseTransposeMatmul", None)
    return [] if found is None else [found()]


def library_products() -> list[Any]:
    """Products to cuBLAS, in a TVM that was built with it; in another nothing is done.

    Those of one row stay: reading a weight once is all there is to them, and dlight's kernel
    does it in one launch with what follows.
    """
    found = (api.tvm.get_global_func(name, allow_missing=True) for name in CUBLAS)
    if any(one is None for one in found):
        return []
    return [partition_products(), api.relax.transform.RunCodegen()]


def required_library_products() -> list[Any]:
    """As ``library_products``, for a rung that is nothing without them.

    Raises:
        NotHere: this TVM was built without cuBLAS.
    """
    found = library_products()
    if not found:
        raise NotHere(
            "this TVM was built without cuBLAS",
            hint="build one with USE_CUBLAS ON, or leave out tvm-ladder-cublas",
        )
    return found


def partition_products() -> Any:
    """The pass that makes a function for cuBLAS of each product that it is to do, and its bias."""
    importlib.import_module("tvm.relax.backend.cuda.cublas")  # registers its patterns
    patterns = []
    for name in reversed(_CUBLAS_PATTERNS):
        stock = api.relax.backend.get_pattern(name)
        check = functools.partial(_takes, stock.check)
        patterns.append((name, stock.pattern, stock.annotation_patterns, check))
    return api.relax.transform.FuseOpsByPattern(
        patterns, bind_constants=False, annotate_codegen=True
    )


def _takes(stock: Callable[[Any], bool], context: Any) -> bool:
    """Whether a product is a model's own kind, of more than one row, and TVM's rule allows it.

    That rule lets more through than its generator is right about: any permutation for a
    transpose, a bias of one element, one tensor in two roles, a batch of one on the right.
    """
    named = context.annotated_expr
    operands = [named[role] for role in ("lhs", "rhs", "bias") if role in named]
    if any(one.same_as(other) for one, other in itertools.combinations(operands, 2)):
        return False
    left, right, *bias = map(_shape, operands)
    product = _shape(named["root"])
    if len(left) < 2 or len(right) != 2 or not product or math.prod(left[:-1]) < 2:
        return False
    if any(shape != product[-1:] for shape in bias):
        return False
    turned = (
        value.attrs.axes
        for value in context.matched_bindings.values()
        if api.is_call(value, "relax.permute_dims")
    )
    plain = all(axes is None or [int(axis) for axis in axes] == [1, 0] for axes in turned)
    return plain and bool(stock(context))


def _shape(expr: Any) -> tuple[int, ...]:
    """The constant shape of a tensor; () where it has none."""
    dtype = getattr(names.type_of(expr), "dtype", None)
    return () if dtype is None else api.shape_of(expr, str(dtype)) or ()


@contextlib.contextmanager
def cuda_graphs(wanted: bool) -> Iterator[None]:
    """Have a GPU's finalizing passes put runs of kernels into CUDA graphs.

    Those whose arguments lie where they lay at the call before: weights and what the memory plan
    owns, not what the caller brings.
    """
    config = {"relax.backend.use_cuda_graph": True} if wanted else {}
    with api.tvm.transform.PassContext(config=config):
        yield
