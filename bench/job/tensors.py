"""The tensors in a checkpoint's safetensors files, read one at a time; nothing is unpickled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from bench import checkpoint
from bench.checkpoint import brief
from bench.errors import UsageFault

# What is read, in the format's own names; the narrow ones are widened without loss.
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# How PyTorch's own files begin: a zip archive, or a pickle of protocol 2 to 5.
_PICKLED = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_AGAIN = "the file is cut short, damaged or not safetensors: bring it again"


@dataclass(frozen=True)
class Stored:
    """One tensor as its file's header states it, not yet read."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    path: Path
    _file: Any

    def read(self) -> torch.Tensor:
        """The tensor in float32.

        Raises:
            UsageFault: the file cannot be read, or holds what is not a finite number.
        """
        try:
            tensor: torch.Tensor = self._file.get_tensor(self.name)
        except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise UsageFault(f"{self.path}: {self.name!r}: {brief(error)}", hint=_AGAIN) from error
        if not torch.isfinite(tensor).all():
            raise UsageFault(
                f"{self.path}: {self.name!r} holds values that are not finite numbers",
                hint="training diverged, or the file is damaged; take an earlier checkpoint",
            )
        return tensor.to(torch.float32)


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[dict[str, Stored]]:
    """Every tensor of the checkpoint by its name in the files, while the block runs.

    Raises:
        UsageFault: a file is damaged or no safetensors file, a tensor lies in two files, or
            not where the index says.
    """
    found: dict[str, Stored] = {}
    with contextlib.ExitStack() as stack:
        for path in checkpoint.weight_files(directory):
            for stored in _open(path, stack):
                if stored.name in found:
                    raise UsageFault(
                        f"the tensor {brief(stored.name)} is both in {found[stored.name].path} "
                        f"and in {path}",
                        hint="remove the shard that is not of this checkpoint",
                    )
                found[stored.name] = stored
        if not (directory / checkpoint.WEIGHTS).exists():
            for name, shard in checkpoint.shards(directory).items():
                if name not in found or found[name].path.name != shard:
                    raise UsageFault(
                        f"the tensor {brief(name)} is not in {directory / shard}, where "
                        f"{checkpoint.INDEX} says it is",
                        hint="the index and the shards are of different checkpoints, or incomplete",
                    )
        yield found


def _open(path: Path, stack: contextlib.ExitStack) -> Iterator[Stored]:
    try:
        with path.open("rb") as start:
            beginning = start.read(9)
        # A safetensors file has the length of its header, eight bytes, and then a brace.
        if beginning[8:] != b"{" and beginning.startswith(_PICKLED):
            raise UsageFault(
                f"{path} is a pickle under a safetensors name: it can run any code when it is "
                "opened, so it is not",
                hint=checkpoint.CONVERT,
            )
        file = stack.enter_context(safetensors.safe_open(path, framework="pt"))
        for name in file.keys():  # noqa: SIM118 - no mapping
            part = file.get_slice(name)
            yield Stored(name, tuple(part.get_shape()), str(part.get_dtype()), path, file)
    # A header of the wrong types comes as several kinds of error.
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
        raise UsageFault(
            f"{path} is not a whole safetensors file: {brief(error)}", hint=_AGAIN
        ) from error
