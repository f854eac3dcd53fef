"""What every verb has in common: how it fails, and how its help is asked for."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from invoke import Exit, task

from bench.errors import BenchError
from bench.host import interrupts
from bench.host.report import plain


def _stop(message: str, hint: str | None, code: int) -> Exit:
    """What Invoke ends the program by, after these words on standard error.

    They may quote a file or a log from anywhere, and a terminal obeys control characters.
    """
    said = f"error: {message}" + (f"\nhint: {hint}" if hint else "")
    return Exit("".join(c if c in "\n\t" else plain(c) for c in said), code)


def verb(
    help: dict[str, str] | None = None, iterable: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Any]:
    """An Invoke task whose expected failures end as `error:` and `hint:`, never a traceback."""

    def decorate(body: Callable[..., None]) -> Any:
        @functools.wraps(body)
        def guarded(*args: Any, **kwargs: Any) -> None:
            debug = logging.getLogger("invoke").isEnabledFor(logging.DEBUG)
            interrupts.listen()
            try:
                body(*args, **kwargs)
            except BenchError as error:
                if debug:
                    raise
                raise _stop(error.message, error.hint, error.exit_code) from None
            except KeyboardInterrupt:
                again = "nothing is half there: type it again to start over"
                raise _stop("interrupted", again, 1) from None
            except BrokenPipeError:  # `invoke results | head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            except Exception as error:
                if debug:
                    raise
                raise _stop(
                    f"internal: {type(error).__name__}: {error}",
                    "a defect of ours: run again with --debug and open an issue",
                    1,
                ) from error

        return task(guarded, help=help or {}, iterable=iterable, auto_shortflags=False)

    return decorate


def help_if_asked(argument: str, task_name: str) -> None:
    """Invoke's parser gives a required argument whatever comes next, a plea for help too."""
    if argument in ("--help", "-h"):
        os.execv(sys.executable, [sys.executable, "-m", "invoke", "--help", task_name])
