"""What the user typed to a validated JobSpec, with errors that say what to type instead."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from bench.errors import UsageFault
from bench.record import JobSpec

_CHOOSE = "; choose "
_OPTION = {"timeout_s": "--timeout"}  # where the option is not the field's own name


def spec_from(**options: Any) -> JobSpec:
    """The spec for the options given; those that are None keep the spec's own default.

    Raises:
        UsageFault: an option's value cannot be used; the first one is named.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(given.get("backends"), str):
        given["backends"] = tuple(filter(None, map(str.strip, given["backends"].split(","))))
    try:
        return JobSpec.model_validate(given)
    except ValidationError as error:
        raise _refusal(error) from error


def _refusal(error: ValidationError) -> UsageFault:
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    field = str(first["loc"][0]) if first["loc"] else None
    if first["type"] != "value_error" and field is not None:
        option = _OPTION.get(field, f"--{field.replace('_', '-')}")
        message = f"{option} {first['input']!r}: {message}"
    said, _, choice = message.partition(_CHOOSE)
    return UsageFault(said, hint=f"choose {choice}" if choice else "see: invoke bench --help")
