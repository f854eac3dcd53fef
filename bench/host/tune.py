"""What `invoke tune` is asked for, as a TuneSpec."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from bench.errors import UsageFault
from bench.host import request
from bench.tuning import TuneSpec

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_GRACE_S = 900.0  # for importing, a turn that is under way, and the report


def spec_from(budget: str, **options: Any) -> TuneSpec:
    """The spec for the options given; those that are None keep the spec's own default.

    Raises:
        UsageFault: an option's value cannot be used, or the time-out is within the budget.
    """
    given = {name: value for name, value in options.items() if value is not None}
    given["budget_s"] = seconds(budget)
    given.setdefault("timeout_s", given["budget_s"] + _GRACE_S)
    # The model and its mode are refused as they are for a benchmark.
    asked = request.spec_from(
        kind="compile",
        **{
            name: given[name]
            for name in ("model", "mode", "batch_size", "seq_len")
            if name in given
        },
    )
    given["mode"] = asked.mode
    try:
        spec = TuneSpec.model_validate(given)
    except ValidationError as error:
        raise request.refusal(error, "tune") from error
    if spec.timeout_s <= spec.budget_s:
        raise UsageFault(
            f"--timeout {spec.timeout_s:g} would stop it within its budget of {spec.budget_s:g} s",
            hint="leave --timeout out: it is the budget and a quarter of an hour",
        )
    return spec


def seconds(text: str) -> float:
    """A duration as 90s, 20m, 1.5h or 1h30m, in seconds.

    Raises:
        UsageFault: it is none.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or total <= 0:
        raise UsageFault(
            f"--budget {text}: not a duration", hint="as in --budget 20m, 90s or 1h30m"
        )
    return total
