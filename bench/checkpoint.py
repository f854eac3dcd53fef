"""A checkpoint's directory as both sides see it: its geometry, its files and its digest.

    config.json             the geometry, with Hugging Face's names
    model.safetensors       the weights; or model.safetensors.index.json and the shards it names

Whoever wrote the directory is not trusted: what does not fit is refused, no name leads out of
the directory, and nothing is unpickled. What lies in the tensors is bench/job/weights.py's.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.catalog import BertConfig, Geometry, GPTConfig
from bench.errors import UsageFault

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Other formats of weights. Pickles run whatever code their writer put in when they are opened.
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
CONVERT = (
    "where you trust it, open it with transformers and let that write safetensors: "
    "AutoModelForCausalLM.from_pretrained('OLD').save_pretrained('NEW')"
)
_BRING = "name a directory with config.json and model.safetensors (docs/weights.md)"
_JSON_MIB = 64  # the index of a thousand shards is smaller
_CHUNK = 1 << 20
# More than any model has. They keep a hostile config.json from costing hours before it is refused.
_MOST_LAYERS = 4096
_MOST = 1 << 24


def geometry(directory: Path) -> Geometry:
    """The geometry that config.json states.

    Raises:
        UsageFault: a key is missing, contradicts another, or asks for what our models have not.
    """
    config = _Config.read(directory)
    kind = _kind_of(config)
    if kind == "gpt2":
        return _gpt(config)
    if kind == "bert":
        return _bert(config)
    if kind == "bigram":
        raise UsageFault(
            f"{config.path.parent} (model_type 'bigram') is a bigram, which has no attention to "
            "compile: it can be trained and resumed only",
            hint="go on with it: invoke train --resume RUN; or train a GPT: "
            "invoke train --preset char-cpu",
        )
    raise UsageFault(
        f"{config.path}: model_type {brief(kind)} has no geometry to load",
        hint="GPT-2 (gpt2) and BERT (bert) can be loaded",
    )


def model_type(directory: Path) -> str:
    """What kind of model config.json states: gpt2, bert, bigram, or whatever it says.

    Raises:
        UsageFault: config.json cannot be read or states none.
    """
    return _kind_of(_Config.read(directory))


def ties_head(directory: Path) -> bool:
    """Whether config.json lets the head share the embedding's weights, as it does by default.

    Raises:
        UsageFault: config.json cannot be read.
    """
    return _Config.read(directory).raw.get("tie_word_embeddings") is not False


def config_of(geometry: Geometry) -> dict[str, Any]:
    """The content of a config.json from which ``geometry`` and transformers read the same."""
    if isinstance(geometry, BertConfig):
        return {
            "architectures": ["BertForMaskedLM"],
            "model_type": "bert",
            "num_hidden_layers": geometry.n_layer,
            "num_attention_heads": geometry.n_head,
            "hidden_size": geometry.n_embd,
            "intermediate_size": 4 * geometry.n_embd,
            "max_position_embeddings": geometry.block_size,
            "vocab_size": geometry.vocab_size,
            "type_vocab_size": geometry.type_vocab_size,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
        }
    # transformers would otherwise take GPT-2's own end of text, outside a smaller vocabulary.
    end = 50256 if geometry.vocab_size >= 50257 else None
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": geometry.n_layer,
        "n_head": geometry.n_head,
        "n_embd": geometry.n_embd,
        "n_inner": None,
        "n_positions": geometry.block_size,
        "vocab_size": geometry.vocab_size,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": end,
        "eos_token_id": end,
    }


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the tensors: model.safetensors, or the shards that the index names.

    Raises:
        UsageFault: there are none (only pickles, perhaps), one is missing, or leads elsewhere.
    """
    if _there(directory / WEIGHTS):
        return [file_inside(directory, WEIGHTS)]
    if _there(directory / INDEX):
        return [file_inside(directory, name) for name in sorted(set(shards(directory).values()))]
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError as error:
        raise UsageFault(f"cannot read {directory}: {error.strerror}", hint=_BRING) from error
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        raise UsageFault(
            f"{directory} has no {WEIGHTS}, only {pickles[0]!r}: a pickle can run any code when it "
            "is opened, so it is not",
            hint=CONVERT,
        )
    raise UsageFault(f"{directory} has no {WEIGHTS} and no {INDEX}", hint=_BRING)


def shards(directory: Path) -> dict[str, str]:
    """Tensor to the name of its shard, as the index states.

    Raises:
        UsageFault: the index is damaged, or a name in it is no plain name of a safetensors file.
    """
    path = file_inside(directory, INDEX)
    raw = _json(path)
    table = raw.get("weight_map")
    if not isinstance(table, dict) or not table:
        raise UsageFault(f"{path}: weight_map is missing or empty", hint=_BRING)
    for tensor, name in table.items():
        plain = isinstance(name, str) and name.endswith(".safetensors") and _plain(name)
        if not plain:
            raise UsageFault(
                f"{path}: the tensor {brief(tensor)} is said to lie in {_shown(name)}, which is no "
                "plain name of a .safetensors file beside the index",
                hint=_BRING,
            )
    return {str(tensor): str(name) for tensor, name in table.items()}


def digest(directory: Path) -> str:
    """sha256, hexadecimal, over config.json and the weights: names and contents, not the place.

    Raises:
        UsageFault: a file is missing, unreadable, or leads out of the directory.
    """
    whole = hashlib.sha256()
    for path in [file_inside(directory, CONFIG), *weight_files(directory)]:
        content = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while block := file.read(_CHUNK):
                    content.update(block)
        except OSError as error:
            raise _unreadable(path, error) from error
        whole.update(f"{path.name}\n{content.hexdigest()}\n".encode())
    return whole.hexdigest()


def file_inside(directory: Path, name: str) -> Path:
    """The file ``name`` of the directory, which is one: no link out, no folder, no device.

    Raises:
        UsageFault: it is anything else, or not there.
    """
    path = directory / name
    if not _plain(name):
        raise UsageFault(f"{name!r} is no plain name of a file in {directory}", hint=_BRING)
    try:
        target = path.resolve(strict=True)
        inside = target.parent == directory.resolve(strict=True)
    except FileNotFoundError as error:
        what = "a link to what is not there" if path.is_symlink() else "missing"
        raise UsageFault(f"{path} is {what}", hint=_BRING) from error
    except (OSError, RuntimeError) as error:  # links in a circle are a RuntimeError up to 3.12
        raise _unreadable(path, error) from error
    if not inside:
        raise UsageFault(
            f"{path} is a link out of its directory, to {target}",
            hint=f"a job sees the directory alone; copy it with what it links to: "
            f"cp -rL {directory} NEW",
        )
    if not target.is_file():
        raise UsageFault(f"{path} is not a file", hint=_BRING)
    return path


def brief(what: object, most: int = 200) -> str:
    """A text or an error for a message: quoted if a text, printable, and not long.

    What a file holds ends up in messages, and its writer may have meant harm to terminals.
    """
    text = repr(what) if isinstance(what, str) else str(what)
    text = "".join(one if one.isprintable() else "?" for one in text[:most])
    return text if len(text) < most else f"{text[:-1]}…"


@dataclass(frozen=True)
class _Config:
    """config.json, read key by key with the complaints that a person can act on."""

    path: Path
    raw: Mapping[str, Any]

    @classmethod
    def read(cls, directory: Path) -> _Config:
        if not directory.is_dir():
            raise UsageFault(f"{directory} is not a directory", hint=_BRING)
        path = file_inside(directory, CONFIG)
        return cls(path, _json(path))

    def count(self, key: str, default: int | None = None, most: int = _MOST) -> int:
        value = self.raw.get(key, default)
        if value is None:
            raise UsageFault(f"{self.path}: {key} is missing", hint="the geometry comes from it")
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise UsageFault(
                f"{self.path}: {key} is {_shown(value)}, not a whole number from 1 to {most}",
                hint="the geometry comes from it",
            )
        return value

    def agrees(self, key: str, *supported: Any, default: Any) -> None:
        """Refuse a value that none of ``supported`` equals."""
        value = self.raw.get(key, default)
        for one in supported:
            if isinstance(one, float) and isinstance(value, int | float):
                if math.isclose(value, one, rel_tol=1e-6):
                    return
            elif value == one and isinstance(value, bool) == isinstance(one, bool):
                return
        raise UsageFault(
            f"{self.path}: {key} is {_shown(value)}, which is not supported",
            hint=f"supported: {' or '.join(_shown(one) for one in supported)}",
        )

    def contradicts(self, key: str, value: int, because: str) -> None:
        """Refuse a value of ``key`` that is stated and is not ``value``."""
        stated = self.raw.get(key)
        if stated is not None and (stated != value or isinstance(stated, bool)):
            raise UsageFault(
                f"{self.path}: {key} is {_shown(stated)}, but {because} makes it {value}",
                hint="only that shape is supported; check that config.json is of these weights",
            )


def _kind_of(config: _Config) -> str:
    kind = config.raw.get("model_type")
    if isinstance(kind, str):
        return kind
    # Older files name only the class that wrote them.
    classes = config.raw.get("architectures")
    first = str(classes[0]) if isinstance(classes, list) and classes else ""
    for prefix, known in (("GPT2", "gpt2"), ("Bert", "bert")):
        if first.startswith(prefix):
            return known
    raise UsageFault(f"{config.path}: model_type is missing", hint="gpt2 or bert")


def _gpt(config: _Config) -> GPTConfig:
    found = GPTConfig(
        n_layer=config.count("n_layer", most=_MOST_LAYERS),
        n_head=config.count("n_head"),
        n_embd=config.count("n_embd"),
        block_size=config.count("n_positions"),
        vocab_size=config.count("vocab_size"),
    )
    _heads_divide(config, "n_embd", found.n_embd, "n_head", found.n_head)
    config.contradicts("n_ctx", found.block_size, f"n_positions {found.block_size}")
    config.contradicts("n_inner", 4 * found.n_embd, f"four times n_embd {found.n_embd}")
    config.agrees("activation_function", "gelu_new", "gelu_pytorch_tanh", default="gelu_new")
    config.agrees("layer_norm_epsilon", 1e-5, default=1e-5)
    config.agrees("scale_attn_weights", True, default=True)
    config.agrees("scale_attn_by_inverse_layer_idx", False, default=False)
    config.agrees("add_cross_attention", False, default=False)
    return found


def _bert(config: _Config) -> BertConfig:
    found = BertConfig(
        n_layer=config.count("num_hidden_layers", most=_MOST_LAYERS),
        n_head=config.count("num_attention_heads"),
        n_embd=config.count("hidden_size"),
        block_size=config.count("max_position_embeddings"),
        vocab_size=config.count("vocab_size"),
        type_vocab_size=config.count("type_vocab_size", default=2),
    )
    _heads_divide(config, "hidden_size", found.n_embd, "num_attention_heads", found.n_head)
    inner = 4 * found.n_embd
    config.contradicts("intermediate_size", inner, f"four times hidden_size {found.n_embd}")
    config.agrees("hidden_act", "gelu", default="gelu")
    config.agrees("layer_norm_eps", 1e-12, default=1e-12)
    config.agrees("position_embedding_type", "absolute", None, default="absolute")
    config.agrees("is_decoder", False, default=False)
    config.agrees("add_cross_attention", False, default=False)
    return found


def _heads_divide(config: _Config, width: str, wide: int, heads: str, many: int) -> None:
    if wide % many:
        raise UsageFault(
            f"{config.path}: {width} {wide} is not a multiple of {heads} {many}",
            hint="each head takes an equal part of the width",
        )


def _json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of bounded size."""
    try:
        with path.open("rb") as file:
            content = file.read(_JSON_MIB * 2**20 + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(content) > _JSON_MIB * 2**20:
        raise UsageFault(f"{path} is over {_JSON_MIB} MiB", hint=_BRING)
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise UsageFault(f"{path} is not JSON: {brief(error)}", hint=_BRING) from error
    if not isinstance(raw, dict):
        raise UsageFault(f"{path} is not a JSON object", hint=_BRING)
    return raw


def _plain(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _there(path: Path) -> bool:
    """Whether there is anything of that name, a broken link too."""
    return path.is_symlink() or path.exists()


def _shown(value: Any) -> str:
    """A value as JSON, cut short: it may be anything."""
    text = json.dumps(value)  # escapes what is not printable
    return text if len(text) <= 60 else f"{text[:59]}…"


def _unreadable(path: Path, error: BaseException) -> UsageFault:
    why = getattr(error, "strerror", None) or str(error)
    return UsageFault(f"cannot read {path}: {why}", hint=_BRING)
