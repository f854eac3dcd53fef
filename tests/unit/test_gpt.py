"""The model: published geometry, seeded weights, causality."""

from __future__ import annotations

import pytest
import torch

from bench.errors import UsageFault
from bench.job import gpt

NANO = gpt.preset("gpt-nano")


@pytest.mark.parametrize(
    ("name", "layers", "heads", "width", "count"),
    [
        ("gpt2", 12, 12, 768, 124_439_808),
        ("gpt2-medium", 24, 16, 1024, 354_823_168),
        ("gpt2-large", 36, 20, 1280, 774_030_080),
        ("gpt2-xl", 48, 25, 1600, 1_557_611_200),
    ],
)
def test_presets_have_the_published_geometry_and_parameter_counts(
    name: str, layers: int, heads: int, width: int, count: int
) -> None:
    config = gpt.preset(name)
    assert (config.n_layer, config.n_head, config.n_embd) == (layers, heads, width)
    assert (config.block_size, config.vocab_size) == (1024, 50257)
    assert gpt.parameter_count(config) == count


def test_gpt_nano_is_three_layers_of_48() -> None:
    assert (NANO.n_layer, NANO.n_head, NANO.n_embd) == (3, 3, 48)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(UsageFault, match="unknown model 'gpt9'"):
        gpt.preset("gpt9")


def test_weights_depend_on_the_seed_alone() -> None:
    first, again, other = gpt.build(NANO, 7), gpt.build(NANO, 7), gpt.build(NANO, 8)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        assert tensor.isfinite().all()
        assert not torch.equal(tensor, other.state_dict()[name]), f"{name} ignores the seed"


def test_no_norm_or_bias_is_left_at_its_neutral_value() -> None:
    # A backend that drops a bias or a norm's weight must not pass the parity gate.
    for name, tensor in gpt.build(NANO, 0).named_parameters():
        assert float(tensor.std()) > 0.001, name
    norm = dict(gpt.build(NANO, 0).named_parameters())["h.0.ln_1.weight"]
    assert 0.9 < float(norm.mean()) < 1.1


def test_a_position_sees_only_itself_and_what_came_before() -> None:
    model = gpt.build(NANO, 0)
    tokens = gpt.tokens_for(NANO, 2, 12, seed=1)
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % NANO.vocab_size
    one, two = model(tokens), model(changed)
    assert torch.equal(one[:, :7], two[:, :7])
    assert all(not torch.equal(one[:, t], two[:, t]) for t in range(7, 12))


def test_logits_have_a_row_for_every_position() -> None:
    tokens = gpt.tokens_for(NANO, 2, 5, seed=1)
    assert gpt.build(NANO, 0)(tokens).shape == (2, 5, NANO.vocab_size)
    assert tokens.dtype == torch.int64
    assert int(tokens.max()) < NANO.vocab_size
