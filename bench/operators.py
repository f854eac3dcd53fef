"""Where a call's time goes, operator by operator, as record.json keeps it."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

TRACE_FILE = "trace.json"  # in a run's directory, where its spec asks for one

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Operator(_Record):
    """One kernel or operator. ``calls`` and ``total_ms`` are of one call of the model.

    ``shapes`` tells operators of one name apart, where the profiler knows: as "64x768, 768x3072".
    """

    name: str
    calls: Annotated[float, Field(ge=0)]
    total_ms: Milliseconds
    shapes: str | None = None


class OperatorProfile(_Record):
    """What a profiler saw of ``calls`` calls of the model, after the timed ones.

    ``call_ms`` is the time of the median one of them, which is longer than a timed call, and
    ``operators`` are of that very one: in descending order of their own time, without that of
    operators that they call. What they leave of ``call_ms`` was spent between them.
    """

    profiler: str
    calls: Annotated[int, Field(ge=1)]
    call_ms: Milliseconds
    operators: list[Operator]


# What an operator is for, by what its name has in it; the first that fits counts. Names come from
# PyTorch's operators and kernels, from Inductor, from TVM's rules and from our own schedules.
KINDS: dict[str, re.Pattern[str]] = {
    kind: re.compile(words, re.IGNORECASE)
    for kind, words in {
        "runtime": r"^vm\.|CompiledFxGraph|Torch-Compiled|Dynamo|Dispatcher|bytecode|^cuda[A-Z]",
        "attention": r"attention|flash|softmax",
        "products": r"linear|matmul|gemm|gemv|dense|addmm|(^|_|:)b?mm(_|$)|::_?mkl",
        "norm": r"norm",
        "lookup": r"embedding|gather|take|index",
        "elementwise": r"elementwise|gelu|relu|tanh|erf|exp(_|$)|pow|add|mul|sub|div|where",
        "layout": r"copy|clone|contiguous|memcpy|transpose|permute|reshape|view|expand|stride|cat|"
        r"split|slice|select|narrow|fill|zeros|full|empty|arange|resolve|resize|(^|:)t$",
    }.items()
}
OTHER_KIND = "other"
# Inductor calls its kernels after all that their values come from, products of others included.
_INDUCTOR = re.compile(r"^(cpp_fused|triton_(poi|red|per)_)")


def kind_of(name: str) -> str:
    """What the operator called ``name`` is for: a key of ``KINDS``, or ``OTHER_KIND``.

    A guess, for people to sum up by. A fused kernel is of the kind of its heaviest part.
    """
    skipped = {"products", "attention"} if _INDUCTOR.match(name) else set()
    fits = (kind for kind, words in KINDS.items() if kind not in skipped and words.search(name))
    return next(fits, OTHER_KIND)
