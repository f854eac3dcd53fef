"""Text continued by a checkpoint, token by token, on any backend.

As long as prompt and text fit the block, the KV cache serves: one prefill, then a step a token.
After that the block is a window that slides: what a position sees changes with every token, so
each token takes a prefill of the last block. nanoGPT does this from the first token on; the text
is the same.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch

from bench.account import Generation
from bench.errors import JobFailed, UsageFault
from bench.generation import EvaluateSpec, GenerateSpec
from bench.job import backends, decoder, driver, models, progress, tokenizer, weights
from bench.job.backends.base import Ready
from bench.job.decoder import Decoder
from bench.job.tokenizer import Tokenizer
from bench.jobs import TEXT_LINE
from bench.record import JobSpec

_LEAST_BUCKET = 16
_PROGRESS_S = 0.5
_MOST_PENDING = 4  # a character has at most four bytes, so that more are no character


def run(spec: GenerateSpec) -> Generation:
    """Generate, and print the text as it comes, in lines that the host shows at once.

    Raises:
        UsageFault: the prompt has characters that the model does not know, or the backend
            cannot run here.
        JobFailed: the backend gives logits that are not finite.
    """
    if spec.backend.startswith("tvm"):
        driver.ensure()  # before anything imports tvm
    directory = models.weights_directory(spec.weights.sha256)
    words = tokenizer.load(directory)
    model = weights.load_gpt(directory)
    prompt = words.encode(spec.prompt) if spec.prompt else [0]
    _check(prompt, spec)
    block = spec.geometry.block_size
    if len(prompt) > block:
        print(
            f"note: the prompt has {len(prompt)} tokens, the block {block}: the model sees its "
            f"last {block} only",
            flush=True,
        )
    plan = Plan.of(len(prompt), spec.tokens, block)
    prepared = backends.load(spec.backend).prepare(
        job_spec(spec, spec.backend), decoder.programs(model, 1, plan.bucket, plan.capacity)
    )
    ready = prepared.ready
    machine = Decoder(ready, spec.geometry, 1, plan.capacity, torch.float32)
    stream = Stream(words)
    times: list[float] = []
    begin = time.perf_counter()
    told = begin
    for token in _tokens(spec, prompt, plan, machine, ready, words.vocab_size):
        now = time.perf_counter()
        times.append((now - begin) * 1e3)
        begin = now
        stream.add(token)
        if now - told > _PROGRESS_S:
            told = now
            progress.report(len(times), spec.tokens, f"{spec.backend}, {1e3 / times[-1]:.0f} tok/s")
    text = stream.end()
    return Generation(
        backend=spec.backend,
        prompt=spec.prompt or "",
        text=text,
        tokens=len(times),
        temperature=spec.temperature,
        top_k=spec.top_k,
        seed=spec.seed,
        compile_s=prepared.compile_s,
        ttft_ms=times[0],
        token_ms=statistics.median(times[1:]) if len(times) > 1 else None,
        recomputed=max(0, min(spec.tokens, len(prompt) + spec.tokens - 1 - plan.block)),
    )


class Plan:
    """The shapes that are compiled: of the prompt, and of the cache, in positions."""

    def __init__(self, bucket: int, capacity: int, block: int) -> None:
        self.bucket, self.capacity, self.block = bucket, capacity, block

    @classmethod
    def of(cls, prompt: int, tokens: int, block: int) -> Plan:
        """Powers of two, so that prompts of like lengths find what was compiled for another."""
        if prompt + tokens > block:  # the window will slide: one shape serves from the start
            return cls(block, block, block)
        return cls(
            min(block, _power_of_two(max(prompt, _LEAST_BUCKET))),
            min(block, _power_of_two(prompt + tokens)),
            block,
        )


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _tokens(
    spec: GenerateSpec, prompt: list[int], plan: Plan, machine: Decoder, ready: Ready, known: int
) -> Iterator[int]:
    """The new tokens, one by one, each below ``known``, the number of the tokenizer's tokens."""
    ids = list(prompt)
    sampler = torch.Generator().manual_seed(spec.seed)
    for index in range(spec.tokens):
        if index > 0 and machine.position < plan.capacity:
            logits = machine.step(torch.tensor([ids[-1:]]))
        else:
            window = ids[-plan.bucket :]
            padded = window + [0] * (plan.bucket - len(window))
            logits = machine.prefill(torch.tensor([padded]), len(window))
        # A vocabulary that was rounded up has places in the table that stand for no text.
        row = _row(ready, logits)[:known]
        ids.append(choose(row, spec.temperature, spec.top_k, sampler))
        yield ids[-1]


def choose(
    logits: torch.Tensor, temperature: float, top_k: int | None, generator: torch.Generator
) -> int:
    """The next token by its logits (V,): the largest at temperature 0, else drawn.

    ``top_k`` leaves only so many of the largest to draw from.

    Raises:
        JobFailed: a logit is NaN or infinite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise JobFailed(
            "the logits are not finite numbers: no token can be chosen by them",
            hint="see whether every backend says so: invoke bench --weights with the same "
            "checkpoint; where all do, its weights are too large for float32",
        )
    if temperature == 0:
        return int(torch.argmax(logits))
    wide = logits.double()
    # The largest stays 0 whatever it is divided by; the others may become -inf, which is no harm.
    scaled = (wide - wide.max()) / temperature
    if top_k is not None and top_k < len(scaled):
        least = torch.topk(scaled, top_k).values[-1]
        scaled = scaled.masked_fill(scaled < least, float("-inf"))
    return int(torch.multinomial(torch.softmax(scaled, dim=-1), 1, generator=generator))


class Stream:
    """Printed text: what is certain of it as soon as it is, since a token may be half a letter."""

    def __init__(self, words: Tokenizer) -> None:
        self._words = words
        self._pending: list[int] = []
        self._shown: list[str] = []

    def add(self, token: int) -> None:
        self._pending.append(token)
        # Bytes that are not yet a whole character are decoded as this mark.
        whole = not self._words.decode(self._pending).endswith("\N{REPLACEMENT CHARACTER}")
        if whole or len(self._pending) >= _MOST_PENDING:
            self._show()

    def end(self) -> str:
        """The whole text."""
        self._show()
        return "".join(self._shown)

    def _show(self) -> None:
        text = self._words.decode(self._pending)
        self._pending.clear()
        self._shown.append(text)
        if text:
            print(TEXT_LINE + json.dumps(text), flush=True)


def _check(prompt: list[int], spec: GenerateSpec) -> None:
    vocabulary = spec.geometry.vocab_size
    outside = [token for token in prompt if token >= vocabulary]
    if outside:
        raise UsageFault(
            f"the tokenizer gives token {outside[0]}, the model has {vocabulary} only",
            hint="the tokenizer's files belong to another model",
        )


def _row(ready: Ready, logits: Any) -> torch.Tensor:
    return ready.view(logits).to("cpu", torch.float32)[0]


def job_spec(spec: GenerateSpec | EvaluateSpec, backend: str) -> JobSpec:
    """What a backend is asked for, in the words of a benchmark."""
    return JobSpec(
        model=spec.model,
        device=spec.device,
        threads=spec.threads,
        seq_len=1,
        backends=(backend,),
        weights=spec.weights,
        seed=spec.seed,
    )
