"""A model's identical layers are exported once, and the program is what it would have been."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import tvm
from torch import nn

from bench.catalog import BertConfig, GPTConfig
from bench.errors import UsageFault
from bench.job import bert, cached, gpt
from bench.job.compile import api, build, check, importer, layers
from bench.job.compile.target import detect_cpu
from bench.job.decoder import programs
from bench.job.repeated import Repeated

WIDTH = 8
X = (torch.randn(2, WIDTH),)
CONFIG = GPTConfig(n_layer=5, n_head=2, n_embd=16, block_size=16, vocab_size=31)
MODEL = gpt.build(CONFIG, 1)
TOKENS = (gpt.tokens_for(CONFIG, 2, 6, 1),)
BERT_CONFIG = BertConfig(n_layer=4, n_head=2, n_embd=16, block_size=16, vocab_size=31)
BERT = bert.build(BERT_CONFIG, 1)
DECODER = programs(MODEL, 2, 6, 12)


class Layer(Repeated):
    """What a stack is made of."""

    def __init__(self, slope: float = 0.5) -> None:
        super().__init__()
        self.slope = slope
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.slope * torch.tanh(self.linear(x))


class Stack(nn.Module):
    """Layers, one after the other."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part(x)
        return x

    def layer(self, place: int) -> Layer:
        """One of them, where it is one of ours."""
        found = self.parts[place]
        assert isinstance(found, Layer)
        return found


def assert_compiles(module: nn.Module, pipeline: str) -> None:
    """What it computes, compiled, is what PyTorch says."""
    compiled = build.compile_module(module, X, pipeline, detect_cpu(2))
    loaded = build.Loaded(compiled.executable.jit(), build.Parameters(compiled.params, "cpu"))
    np.testing.assert_allclose(loaded(X[0].numpy()), module(*X).numpy(), atol=1e-5)


def stack(count: int = 4) -> Stack:
    return Stack(*(Layer() for _ in range(count)))


@contextlib.contextmanager
def calls(kind: type[nn.Module]) -> Iterator[list[nn.Module]]:
    """Whose ``forward`` ran: what is traced runs."""
    found: list[nn.Module] = []
    forward: Callable[..., Any] = kind.forward

    def counted(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        found.append(self)
        return forward(self, *args, **kwargs)

    with mock.patch.object(kind, "forward", counted):
        yield found


def traced(module: nn.Module, kind: type[nn.Module] = Layer, example: Any = X) -> int:
    """How many of the layers of this kind ran while ``module`` was exported."""
    with calls(kind) as ran:
        layers.export(module, example)
    return len(set(map(id, ran)))


def imported(program: Any, example: tuple[torch.Tensor, ...]) -> tuple[Any, list[np.ndarray]]:
    check.check(program, example)
    mod, params = api.import_exported(program)
    return mod, [param.numpy() for param in params]


def assert_same(module: nn.Module, example: tuple[torch.Tensor, ...]) -> None:
    """Relax cannot tell the two ways apart, and the parameters come in the same order."""
    mod, params = imported(layers.export(module, example), example)
    wanted, wanted_params = imported(layers._exported(module, example), example)
    try:
        tvm.ir.assert_structural_equal(mod, wanted, map_free_vars=True)
    except ValueError as error:  # it goes on to print both
        pytest.fail(str(error).splitlines()[0])
    assert [str(v) for v in mod["main"].params] == [str(v) for v in wanted["main"].params]
    assert len(params) == len(wanted_params)
    for param, wanted_param in zip(params, wanted_params, strict=True):
        np.testing.assert_array_equal(param, wanted_param)


@pytest.mark.parametrize(
    ("module", "example", "kind"),
    [
        (MODEL, TOKENS, gpt.Block),
        (BERT, TOKENS, bert.Block),
        (BERT, (*TOKENS, torch.zeros_like(TOKENS[0])), bert.Block),
        (DECODER["prefill"].module, DECODER["prefill"].example, cached.PrefillLayer),
        (DECODER["step"].module, DECODER["step"].example, cached.StepLayer),
        (stack(), X, Layer),
    ],
    ids=["gpt", "bert", "bert with types", "prefill", "step", "plain"],
)
def test_it_is_the_program_of_all_layers_and_only_the_first_was_run(
    module: nn.Module, example: tuple[torch.Tensor, ...], kind: type[nn.Module]
) -> None:
    assert_same(module, example)
    assert traced(module, kind, example) == 1


def test_a_deeper_model_runs_its_layers_no_more_often() -> None:
    counts = []
    for depth in (3, 9):
        with calls(Layer) as ran:
            layers.export(stack(depth), X)
        counts.append(len(ran))
    assert counts[0] == counts[1]


class Unmarked(nn.Module):
    """A layer that promises nothing: it is written into."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x)
        return out


class Writing(Stack):
    """A model that writes into what its layers give."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part(x)
            x += 1
        return x


def test_two_layers_are_traced_as_they_are() -> None:
    assert traced(stack(2)) == 2


def test_layers_that_promise_nothing_are_each_traced() -> None:
    module = Writing(*(Unmarked() for _ in range(4)))
    assert_same(module, X)
    assert traced(module, Unmarked) == 4


def test_a_module_is_left_as_it_was() -> None:
    module = stack()
    wanted = {name: id(param) for name, param in module.named_parameters()}
    layers.export(module, X)
    assert {name: id(param) for name, param in module.named_parameters()} == wanted
    assert all("forward" not in vars(part) for part in module.parts)
    assert not any(part._forward_pre_hooks for part in module.parts)
    assert not layers._layers


# --- layers that are not alike -----------------------------------------------------------------


class Counting(Layer):
    """A layer that knows its place, as those of some libraries do."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.place


class Buffered(Layer):
    """A layer with a table of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = super().forward(x) + self.get_buffer("table")
        return out


class Listing(Layer):
    """A layer with a constant of its own, which is no buffer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.tensor([1.0, 2.0] * (WIDTH // 2))


class Private(Layer):
    """A layer that differs in what its name calls nobody's business, and cannot be compared."""

    def __init__(self) -> None:
        super().__init__()
        self._shift = torch.randn(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self._shift


class Tied(Layer):
    """A layer of two products, whose weights may be one."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(super().forward(x))
        return out


class Peeking(Stack):
    """A model that uses a layer's weight beside the layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) @ self.layer(1).linear.weight


class Growing(Stack):
    """A model that calls its layers with other shapes each time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = torch.cat([x, part(x)])
        return x


class Named(Stack):
    """A model that names what its layers take."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part(x=x)
        return x


class Idle(Stack):
    """A model that calls no layer as such."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for place in range(len(self.parts)):
            x = self.layer(place).linear(x)
        return x


def hooked() -> Stack:
    module = stack()
    module.layer(2).linear.register_forward_hook(lambda _module, _args, out: out * 2)
    return module


def mixed() -> Stack:
    module = stack()
    module.parts[2] = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
    return module.eval().requires_grad_(False)


def crossed() -> Stack:
    module = Stack(*(Tied() for _ in range(4)))
    one = module.parts[3]
    assert isinstance(one, Tied)
    one.second.weight = one.linear.weight
    return module


UNLIKE: dict[str, Callable[[], nn.Module]] = {
    "settings": lambda: Stack(Layer(), Layer(), Layer(0.25), Layer()),
    "places": lambda: Stack(*map(Counting, range(1, 5))),
    "buffers": lambda: Stack(*(Buffered() for _ in range(4))),
    "constants": lambda: Stack(*(Listing() for _ in range(4))),
    "private": lambda: Stack(*(Private() for _ in range(4))),
    "a hook": hooked,
    "ties": crossed,
    "types": mixed,
    "weights used outside": lambda: Peeking(*(Layer() for _ in range(4))),
    "shapes": lambda: Growing(*(Layer() for _ in range(4))),
    "keywords": lambda: Named(*(Layer() for _ in range(4))),
    "not called": lambda: Idle(*(Layer() for _ in range(4))),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_layers_that_are_not_alike_are_each_traced(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = UNLIKE[name]().eval()
    put_in_place, made = layers._put_in_place, []

    def noted(*args: Any) -> Any:
        made.append(put_in_place(*args))
        return made[-1]

    monkeypatch.setattr(layers, "_put_in_place", noted)
    assert_same(module, X)
    assert not made
    assert_same(stack(), X)
    assert made  # where they are alike, this is what is called
    assert_compiles(module, "none")


# --- what layers may share and give -------------------------------------------------------------


class Both(nn.Module):
    """A model that gives what each layer made, the first twice, and ties a weight to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = stack()
        self.tied = self.stack.layer(1).linear.weight

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = []
        for part in self.stack.parts:
            x = part(x)
            made.append(x)
        return (*made, made[0], x @ self.tied)


def test_what_layers_make_may_be_given_and_their_weights_be_tied() -> None:
    module = Both()
    assert_same(module, X)
    assert traced(module) == 1


def test_a_parameter_of_two_names_is_one() -> None:
    module = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH, bias=False))
    module[2].weight = module[0].weight
    module.eval().requires_grad_(False)
    found = importer.import_module(module, X)
    assert sum(param.size for param in found.params) == WIDTH * WIDTH + WIDTH
    assert_compiles(module, "optimized")


def test_a_layer_may_be_called_again() -> None:
    layer = Layer()
    module = Stack(layer, Layer(), layer, Layer())
    assert_same(module, X)
    assert traced(module) == 1


class Complex(Layer):
    """A layer with an operator that TVM lacks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = super().forward(x) + torch.special.i0(x)
        return out


def test_a_failure_of_the_model_is_not_swallowed() -> None:
    with pytest.raises(RuntimeError, match="same reduction dim"):
        layers.export(stack(), (torch.randn(2, WIDTH + 1),))


def test_nor_is_one_of_putting_layers_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: Any) -> Any:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(layers, "_copied", broken)
    with pytest.raises(KeyError, match="a mistake of ours"):
        layers.export(stack(), X)
    assert not layers._layers


def test_what_tvm_lacks_is_counted_in_every_layer() -> None:
    with pytest.raises(UsageFault, match=r"i0\.default \(4 times\) \[test_layers\.py:"):
        importer.import_module(Stack(*(Complex() for _ in range(4))), X)
