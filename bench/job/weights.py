"""Our models from checkpoints in the Hugging Face layout, and back.

Their GPT-2 keeps four weights of each layer as (in, out) where ``nn.Linear`` has (out, in);
their BERT has query, key and value apart. Everything else differs in names alone. A checkpoint
is compared with its config.json by the headers of its files, before memory is taken for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import safetensors
import safetensors.torch
import torch

from bench import checkpoint
from bench.catalog import BertConfig, GPTConfig
from bench.errors import UsageFault
from bench.job import tensors
from bench.job.bert import Bert
from bench.job.gpt import GPT
from bench.job.tensors import Stored

_PREFIX = "transformer."
_HEAD = "lm_head.weight"
_CONV1D = re.compile(r"(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight$")
# The causal mask and what masks with, which older versions kept as buffers.
_MASKS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)$")

_BERT_PREFIX = "bert."
_DECODER = "cls.predictions.decoder.weight"
_DECODER_BIAS = "cls.predictions.decoder.bias"
_BIAS = "cls.predictions.bias"
# For next-sentence prediction, which a masked language model does without; and a buffer.
_NO_PART_OF_IT = re.compile(r"pooler\.|cls\.seq_relationship\.|embeddings\.position_ids$")
_BERT_NAMES = {
    "wte.weight": "embeddings.word_embeddings.weight",
    "wpe.weight": "embeddings.position_embeddings.weight",
    "wtt.weight": "embeddings.token_type_embeddings.weight",
    "ln_e": "embeddings.LayerNorm",
    "attn.c_proj": "attention.output.dense",
    "ln_1": "attention.output.LayerNorm",
    "mlp.c_fc": "intermediate.dense",
    "mlp.c_proj": "output.dense",
    "ln_2": "output.LayerNorm",
    "head.c_fc": "cls.predictions.transform.dense",
    "head.ln": "cls.predictions.transform.LayerNorm",
    "bias": _BIAS,
}

Model = TypeVar("Model", GPT, Bert)


@dataclass(frozen=True)
class Piece:
    """A stored tensor and the place for it in a parameter of ours.

    It is part ``part`` of ``parts`` equal parts of the rows, and lies transposed in the file
    where ``transposed``.
    """

    theirs: str
    ours: str
    transposed: bool = False
    part: int = 0
    parts: int = 1

    def place(self, parameter: torch.Tensor) -> torch.Tensor:
        """The view of our parameter, in the shape of the file's."""
        rows = parameter.shape[0] // self.parts
        view = parameter[self.part * rows : (self.part + 1) * rows]
        return view.T if self.transposed else view


def load_gpt(directory: Path) -> GPT:
    """A GPT in evaluation mode, float32, without gradients, from a GPT-2 checkpoint.

    Takes names with and without ``transformer.``, leaves out the buffers of causal masks, and
    a head beside the embedding only where both are equal.

    Raises:
        UsageFault: config.json and a tensor contradict each other, tensors are missing or too
            many, or a file is damaged or not safetensors.
    """
    geometry = checkpoint.geometry(directory)
    if not isinstance(geometry, GPTConfig):
        raise UsageFault(f"{directory} holds a BERT, not a GPT", hint="name a GPT-2 checkpoint")
    with torch.device("meta"):
        model = GPT(geometry)
    pieces = [
        Piece(name, name, transposed=bool(_CONV1D.search(name)))
        for name, _ in model.named_parameters()
    ]
    with tensors.opened(directory) as stored:
        found = _renamed(stored, lambda name: name.removeprefix(_PREFIX))
        found = {name: one for name, one in found.items() if not _MASKS.match(name)}
        tied = {_HEAD: "wte.weight"}
        if not checkpoint.ties_head(directory) and _HEAD not in found:
            raise UsageFault(
                f"{directory}: tie_word_embeddings is false, but {_HEAD!r} is missing",
                hint="bring the whole checkpoint",
            )
        return _filled(model, directory, pieces, found, tied, _PREFIX)


def load_bert(directory: Path) -> Bert:
    """A BERT in evaluation mode, float32, without gradients, from a BertForMaskedLM checkpoint.

    Takes names with and without ``bert.``, a norm's older names gamma and beta, and leaves out
    what only next-sentence prediction needs.

    Raises:
        UsageFault: as ``load_gpt``.
    """
    geometry = checkpoint.geometry(directory)
    if not isinstance(geometry, BertConfig):
        raise UsageFault(f"{directory} holds a GPT, not a BERT", hint="name a BERT checkpoint")
    with torch.device("meta"):
        model = Bert(geometry)
    pieces = [piece for name, _ in model.named_parameters() for piece in _bert_pieces(name)]
    with tensors.opened(directory) as stored:
        found = _renamed(stored, _bert_name)
        found = {name: one for name, one in found.items() if not _NO_PART_OF_IT.match(name)}
        tied = {_DECODER: _BERT_NAMES["wte.weight"], _DECODER_BIAS: _BIAS}
        return _filled(model, directory, pieces, found, tied, _BERT_PREFIX)


def load(directory: Path) -> GPT | Bert:
    """The model that config.json states. Raises as ``load_gpt``."""
    if isinstance(checkpoint.geometry(directory), BertConfig):
        return load_bert(directory)
    return load_gpt(directory)


def save_gpt(model: GPT, directory: Path) -> None:
    """Write config.json and model.safetensors (float32), each by one rename.

    A checkpoint that is there stays whole until the new one takes its place.

    Raises:
        OSError: the disk is full or not writable; no unfinished file is left.
    """
    directory.mkdir(parents=True, exist_ok=True)
    content = {}
    for name, parameter in model.named_parameters():
        tensor = parameter.detach().to("cpu", torch.float32)
        laid_out = tensor.T if _CONV1D.search(name) else tensor
        content[f"{_PREFIX}{name}"] = laid_out.contiguous()
    config = json.dumps(checkpoint.config_of(model.config), indent=2) + "\n"
    with _replacing(directory / checkpoint.CONFIG) as path:
        path.write_text(config, encoding="utf-8")
    with _replacing(directory / checkpoint.WEIGHTS) as path:
        try:
            # transformers wants to be told which framework's layout it is.
            safetensors.torch.save_file(content, path, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:  # what it makes of a full disk
            raise OSError(f"cannot write {directory / checkpoint.WEIGHTS}: {error}") from error


def _bert_name(name: str) -> str:
    name = name.removeprefix(_BERT_PREFIX)
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def _bert_pieces(ours: str) -> Iterator[Piece]:
    """Where the parameter ``ours`` lies in a BertForMaskedLM, without the prefix."""
    layer = re.match(r"h\.(\d+)\.", ours)
    prefix = f"encoder.layer.{layer[1]}." if layer else ""
    rest = ours[layer.end() :] if layer else ours
    if rest in _BERT_NAMES:
        yield Piece(prefix + _BERT_NAMES[rest], ours)
        return
    module, _, kind = rest.rpartition(".")
    if module == "attn.c_attn":
        for part, which in enumerate(("query", "key", "value")):
            yield Piece(f"{prefix}attention.self.{which}.{kind}", ours, part=part, parts=3)
        return
    yield Piece(f"{prefix}{_BERT_NAMES[module]}.{kind}", ours)


def _renamed(stored: Mapping[str, Stored], rename: Callable[[str], str]) -> dict[str, Stored]:
    """By the name without its prefix.

    Raises:
        UsageFault: two tensors of the files come to the same name.
    """
    found: dict[str, Stored] = {}
    for name, one in stored.items():
        short = rename(name)
        if short in found:
            raise UsageFault(
                f"{one.path}: {found[short].name!r} and {name!r} are the same tensor",
                hint="a checkpoint has one name for each; write it anew with one of them",
            )
        found[short] = one
    return found


def _filled(
    model: Model,
    directory: Path,
    pieces: Sequence[Piece],
    found: Mapping[str, Stored],
    tied: Mapping[str, str],
    prefix: str,
) -> Model:
    """The model, made on the meta device, with the weights in it.

    ``tied`` names tensors that may lie beside those they must equal.
    """
    parameters = dict(model.named_parameters())
    shapes: dict[str, tuple[int, ...]] = {}
    for piece in pieces:
        shapes[piece.theirs] = tuple(piece.place(parameters[piece.ours]).shape)
    beside: dict[str, str] = {copy: of for copy, of in tied.items() if copy in found}
    _check_names(directory, shapes, [name for name in found if name not in beside], prefix)
    for name, shape in [*shapes.items(), *((copy, shapes[of]) for copy, of in beside.items())]:
        _check_header(found[name], shape)
    model.to_empty(device="cpu")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for piece in pieces:
            piece.place(parameters[piece.ours]).copy_(found[piece.theirs].read())
    for copy, of in beside.items():
        if not torch.equal(found[copy].read(), found[of].read()):
            raise UsageFault(
                f"{found[copy].path}: {found[copy].name!r} differs from {found[of].name!r}",
                hint="our models share these weights; a checkpoint that does not is not supported",
            )
    return model.eval().requires_grad_(False)


def _check_names(directory: Path, wanted: Iterable[str], found: Iterable[str], prefix: str) -> None:
    """Refuse missing and unexpected tensors, as config.json has it."""
    missing = sorted(set(wanted) - set(found))
    if missing:
        shown = [name if name.startswith("cls.") else f"{prefix}{name}" for name in missing]
        raise UsageFault(
            f"{directory} lacks tensors that its config.json asks for: {_listed(shown)}",
            hint="bring the whole checkpoint, with the config.json that belongs to it",
        )
    unexpected = sorted(set(found) - set(wanted))
    if unexpected:
        raise UsageFault(
            f"{directory} has tensors that its config.json does not ask for: {_listed(unexpected)}",
            hint="bring the config.json that belongs to these weights",
        )


def _check_header(stored: Stored, shape: tuple[int, ...]) -> None:
    if stored.shape != shape:
        raise UsageFault(
            f"{stored.path}: {stored.name!r} has the shape {stored.shape}; config.json makes it "
            f"{shape}",
            hint="bring the config.json that belongs to these weights",
        )
    if stored.dtype not in tensors.DTYPES:
        raise UsageFault(
            f"{stored.path}: {stored.name!r} is of type {stored.dtype}",
            hint=f"weights may be of {', '.join(tensors.DTYPES.values())}",
        )


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(checkpoint.brief(name) for name in names[:3])
    return text if len(names) <= 3 else f"{text} and {len(names) - 3} more"


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its name when the block ends well."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
