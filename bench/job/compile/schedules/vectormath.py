"""exp, tanh and GELU as arithmetic, so that a loop over them vectorises.

LLVM has no vector exp of its own: it calls the C library once an element.
"""

from __future__ import annotations

import math
from typing import Any

from bench.job.compile.api import tirx

# exp(r) on [-ln 2 / 2, ln 2 / 2]: the Taylor terms up to r**7 / 7!, whose remainder of
# (ln 2 / 2)**8 / 8! = 5e-9 is below half a unit in the last place of a float32.
_TERMS = [1 / math.factorial(n) for n in range(8)]
# ln 2 in two parts, the first with zeros at its end, so that n * _LN2_HIGH is exact.
_LN2_HIGH = 0.693359375
_LN2_LOW = math.log(2) - _LN2_HIGH
# e to this is the least normal float32, and a little. A multiplication that gives less takes a CPU
# many times as long as another, and masked scores of attention, -inf, would all come to it.
_LEAST_EXPONENT = -87.33

# 1 - Phi(x) for x >= 0 is phi(x) times a polynomial in 1 / (1 + step * x), to 7.5e-8.
_TAIL_STEP = 0.2316419
_TAIL = [
    term / math.sqrt(2 * math.pi)
    for term in (0.319381530, -0.356563782, 1.781477937, -1.821255978, 1.330274429)
]


def exp(x: Any) -> Any:
    """e ** x for a float32 expression, within 2 units in the last place; NaN stays NaN.

    Below the least normal float32 it is 0.
    """
    f32 = _f32
    # Past these bounds the result is 0 or infinity. NaN fails all comparisons, and is the second
    # operand of the least and of the greatest, so it passes through.
    vanishes = x < f32(_LEAST_EXPONENT)
    x = tirx.min(f32(90), tirx.max(f32(_LEAST_EXPONENT), x))
    n = tirx.floor(x * f32(1 / math.log(2)) + f32(0.5))
    r = x - n * f32(_LN2_HIGH) - n * f32(_LN2_LOW)
    p = f32(_TERMS[-1])
    for term in reversed(_TERMS[:-1]):
        p = p * r + f32(term)
    # 2**n in two factors: n reaches to 130, a float's exponent to 127.
    whole = tirx.Cast("int32", n)
    half = whole >> 1
    power = p * _power_of_two(half) * _power_of_two(whole - half)
    return tirx.Select(vanishes, f32(0), power)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent of a float32 expression, within 2e-7 absolute."""
    return _f32(1) - _f32(2) / (exp(_f32(2) * x) + _f32(1))


def gelu_tanh(x: Any) -> Any:
    """GELU in its tanh form (Hendrycks and Gimpel, 2016), for a float32 expression."""
    inner = _f32(math.sqrt(2 / math.pi)) * x * (_f32(1) + _f32(0.044715) * x * x)
    return _f32(0.5) * x * (_f32(1) + tanh(inner))


def gelu(x: Any) -> Any:
    """GELU itself, x times the normal distribution's Phi(x), within 4e-7 absolute.

    Phi by formula 26.2.17 of Abramowitz and Stegun, "Handbook of Mathematical Functions": its
    tail is at hand, so that nothing cancels where x is below zero.
    """
    # Beyond 100 the tail is 0 all the same, and infinity times 0 would not be a number.
    size = tirx.min(_f32(100), tirx.max(x, _f32(0) - x))
    t = _f32(1) / (_f32(1) + _f32(_TAIL_STEP) * size)
    p = _f32(_TAIL[-1])
    for term in reversed(_TAIL[:-1]):
        p = p * t + _f32(term)
    tail = size * p * t * exp(_f32(-0.5) * size * size)
    return tirx.max(_f32(0), x) - tail


def _f32(value: float) -> Any:
    return tirx.const(value, "float32")


def _power_of_two(n: Any) -> Any:
    """2 ** n for an int32 from -126 to 127: n is all of the exponent's bits."""
    return tirx.reinterpret("float32", (n + 127) << 23)
