"""What generating and evaluating hand back, as record.json keeps it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Generation(_Record):
    """What was generated. ``text`` begins after the prompt; times are milliseconds.

    ``ttft_ms`` is the prefill of the prompt, ``token_ms`` the median of the tokens after it.
    ``recomputed`` tokens came after the block was full: each took a pass over the whole block.
    """

    backend: str
    prompt: str
    text: str
    tokens: int
    temperature: float
    top_k: int | None
    seed: int
    compile_s: float | None = None
    ttft_ms: float | None = None
    token_ms: float | None = None
    recomputed: int = 0


class Evaluation(_Record):
    """The mean cross-entropy (nats a token) and perplexity of one backend on one text's split."""

    backend: str
    split: str
    tokens: int
    loss: float
    perplexity: float
    text_sha256: str
