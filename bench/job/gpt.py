"""A GPT in one file, in the manner of nanoGPT: read it in a sitting.

Shapes stand beside the tensors: B batch, T positions, C width (``n_embd``), H heads,
D = C / H width of a head, V vocabulary.

Source of the architecture: Radford et al., "Language Models are Unsupervised Multitask
Learners" (GPT-2), with the layer order and the initialisation of karpathy/nanoGPT.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F

from bench.catalog import MODELS as PRESETS
from bench.catalog import Geometry, GPTConfig
from bench.errors import UsageFault
from bench.job.repeated import Repeated

__all__ = ["GPT", "PRESETS", "GPTConfig", "build", "parameter_count", "preset", "tokens_for"]


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and what came before it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # query, key, value in one
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def heads(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of ``x`` (B, T, C), each (B, H, T, D)."""
        B, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, dim=2)  # each (B, T, C)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, H, T, D)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, H, T, D)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, H, T, D)
        return q, k, v

    def merge(self, y: torch.Tensor) -> torch.Tensor:
        """What the heads found (B, H, T, D), put together again (B, T, C)."""
        B, H, T, D = y.shape
        out: torch.Tensor = self.c_proj(y.transpose(1, 2).reshape(B, T, H * D))
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.heads(x)
        return self.merge(F.scaled_dot_product_attention(q, k, v, is_causal=True))  # (B, T, C)


class MLP(nn.Module):
    """Two linear layers with GPT-2's tanh GELU between them, four times as wide inside."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.gelu(self.c_fc(x), approximate="tanh")  # (B, T, 4C)
        out: torch.Tensor = self.c_proj(h)  # (B, T, C)
        return out


class Block(Repeated):
    """One residual block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))  # (B, T, C)
        x = x + self.mlp(self.ln_2(x))  # (B, T, C)
        return x


class GPT(nn.Module):
    """Token and position embeddings, the blocks, a last norm, and a head tied to the embedding."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)

    def blocks(self) -> list[Block]:
        """The blocks, in order, as what they are: a ModuleList says Module of each."""
        return [block for block in self.h if isinstance(block, Block)]

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token indices (B, T) to the first residual stream (B, T, C)."""
        T = tokens.shape[1]
        position = torch.arange(T, device=tokens.device)  # (T,)
        out: torch.Tensor = self.wte(tokens) + self.wpe(position)  # (B, T, C)
        return out

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token indices (B, T), int64, to logits (B, T, V): one row for every position."""
        x = self.embed(tokens)  # (B, T, C)
        for block in self.h:
            x = block(x)  # (B, T, C)
        x = self.ln_f(x)  # (B, T, C)
        return F.linear(x, self.wte.weight)  # (B, T, V)


def preset(name: str) -> GPTConfig:
    """The geometry of the GPT called ``name``.

    Raises:
        UsageFault: there is no such preset.
    """
    found = PRESETS.get(name)
    if not isinstance(found, GPTConfig):
        known = (key for key, value in PRESETS.items() if isinstance(value, GPTConfig))
        raise UsageFault(f"unknown model '{name}'", hint=f"choose one of: {', '.join(known)}")
    return found


def build(config: GPTConfig, seed: int, dtype: torch.dtype = torch.float32) -> GPT:
    """A GPT in evaluation mode whose weights depend on ``seed`` and the geometry alone.

    Initialised as GPT-2: normal with a deviation of 0.02, the projections back into the
    residual stream divided by sqrt(2 * n_layer). Biases and norms are drawn too, not left at
    0 and 1, so that a backend that drops one fails the parity gate (the bias of the keys alone
    cancels out: softmax does not see it).
    """
    with torch.device("meta"):
        model = GPT(config)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    residual_std = 0.02 / (2 * config.n_layer) ** 0.5
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            std = residual_std if name.endswith("c_proj.weight") else 0.02
            mean = 1.0 if ".ln_" in f".{name}" and name.endswith("weight") else 0.0
            tensor.normal_(mean, std, generator=generator)
    return model.to(dtype).eval().requires_grad_(False)


def parameter_count(config: GPTConfig) -> int:
    """How many weights the geometry has; the tied head counts once."""
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in GPT(config).parameters())


def tokens_for(config: Geometry, batch_size: int, seq_len: int, seed: int) -> torch.Tensor:
    """Seeded token indices (B, T), int64, drawn evenly from the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (batch_size, seq_len), generator=generator)
