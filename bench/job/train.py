"""Training: text in, checkpoints and a loss curve out; stopped and resumed without a trace.

Each step draws its batch, and its dropout, from a generator of its own, seeded by the spec's
seed and the step's number. So a resumed run sees what an uninterrupted one would have seen, and
on a CPU its losses are the same to the last bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from bench import checkpoint
from bench.errors import JobFailed, UsageFault
from bench.job import beginning, blocks, progress, stopping, train_model
from bench.job import training_state as saved
from bench.job.beginning import Begun
from bench.job.blocks import Blocks
from bench.job.schedule import learning_rate
from bench.job.stopping import Stop
from bench.job.text import CharTokenizer
from bench.training import (
    CHECKPOINT_DIR,
    LOSS_TABLE,
    PARTIAL,
    Hyperparameters,
    Point,
    Stopped,
    Training,
    TrainSpec,
    loss_table,
)

PROGRESS_EVERY_S = 0.5


def run(spec: TrainSpec, directory: Path) -> Training:
    """Train as ``spec`` says; write ``checkpoint/`` and ``loss.csv`` into ``directory``.

    The inputs ``text``, ``init`` and ``resume`` are found where their variables say. SIGINT and
    SIGTERM end it after the step that is under way, with a checkpoint of that step. A loss, a
    gradient or a weight that is not a finite number ends it too; the last checkpoint stays as it
    was.

    Raises:
        UsageFault: the text, the device or a checkpoint cannot be used for this; nothing was
            trained.
        JobFailed: the disk or the GPU's memory is full; the last checkpoint stays as it was.
    """
    with stopping.on_signals() as stop:
        device = _device(spec)
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        text = beginning.text_of(spec)
        begun = beginning.begin(spec, text)
        tokens = (
            begun.tokenizer.encode_array(text)
            if isinstance(begun.tokenizer, CharTokenizer)
            else begun.tokenizer.encode(text)
        )
        del text
        with blocks.mapped(tokens, begun.vocab_size, directory) as mapped:
            del tokens
            data = Blocks.of(mapped, spec.block_size)
            try:
                return _Run(spec, directory, device, data, begun, stop).train()
            except torch.OutOfMemoryError as error:  # a GPU's
                raise JobFailed(
                    f"the GPU has too little memory: {str(error).splitlines()[0]}",
                    hint="a smaller --batch-size or --block-size",
                ) from error


class _NotFinite(Exception):
    """A loss, a gradient or a weight is no finite number; the message says which."""


class _Run:
    """One run of the loop. ``step`` counts the updates that the weights have had."""

    def __init__(
        self,
        spec: TrainSpec,
        directory: Path,
        device: torch.device,
        data: Blocks,
        begun: Begun,
        stop: Stop,
    ) -> None:
        self.spec, self.directory, self.device = spec, directory, device
        self.data, self.begun, self.stop = data, begun, stop
        self.model = begun.model.to(device)
        self.optimizer = train_model.optimizer_for(self.model, spec)
        self.step = 0
        self.curve: list[Point] = []
        self.before_s = 0.0
        if begun.state is not None and begun.resumed is not None:
            self.step = begun.state.step
            self.curve = list(begun.state.curve)
            self.before_s = begun.state.elapsed_s
            saved.restore_moments(begun.resumed, self.model, self.optimizer, self.step)
        self.resumed_from = self.step if begun.state else None
        self.saved_step: int | None = None
        self.began = self.told = time.perf_counter()
        self.busy_s, self.busy_tokens = 0.0, 0

    def train(self) -> Training:
        """The loop: evaluate and save when it is time, else one update."""
        stopped: Stopped = "finished"
        reason = None
        full: tuple[float, int] | None = None
        try:
            if self.begun.state is not None:
                self._save()  # whatever happens next, this run has a checkpoint
            while True:
                if self._due():
                    self._evaluate()
                if self.stop.requested or self.step >= self.spec.steps:
                    break
                self._update()
            if self.saved_step != self.step:
                self._save()
            if not self.stop.requested:
                full = self._whole_validation()
            if self.stop.requested and (self.step < self.spec.steps or self._due()):
                stopped = "interrupted"
                reason = f"stopped by {self.stop.by} at step {self.step} of {self.spec.steps}"
        except _NotFinite as error:
            stopped, reason = "not finite", self._in_words(error)
        progress.report(self.step, self.spec.steps, stopped)
        return self._training(stopped, reason, full)

    def _due(self) -> bool:
        """Whether this step is evaluated; a resumed run has its first evaluation behind it."""
        timely = self.step % self.spec.eval_every == 0 or self.step == self.spec.steps
        return timely and all(point.step != self.step for point in self.curve)

    def _update(self) -> None:
        """One batch, one step of the optimizer."""
        began = time.perf_counter()
        spec = self.spec
        rate = learning_rate(self.step, spec)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        torch.manual_seed(blocks.seed_for(spec.seed, "dropout", self.step))
        generator = blocks.generator_for(spec.seed, "train", self.step)
        tokens, targets = self._placed(self.data.batch("train", spec.batch_size, generator))
        loss = train_model.loss_of(self.model(tokens), targets)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise _NotFinite(f"the loss is {value}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), spec.grad_clip or float("inf")
        )
        if not bool(norm.isfinite()):
            raise _NotFinite(f"the gradient's norm is {float(norm)}")
        self.optimizer.step()
        self.step += 1
        now = time.perf_counter()
        self.busy_s += now - began
        self.busy_tokens += tokens.numel()
        if now - self.told >= PROGRESS_EVERY_S:
            self.told = now
            speed = self.busy_tokens / self.busy_s
            progress.report(self.step, spec.steps, f"loss {value:.4f}, {speed:,.0f} tokens/s")

    def _evaluate(self) -> None:
        """A point of the curve and a checkpoint, unless the work is asked to stop meanwhile."""
        spec = self.spec
        losses = []
        for split in ("train", "val"):
            generator = blocks.generator_for(spec.seed, f"evaluate {split}", self.step)
            sampled = (
                self.data.batch(split, spec.batch_size, generator) for _ in range(spec.eval_batches)
            )
            found = self._mean_loss(sampled)
            if found is None:
                return
            losses.append(found[0])
        point = Point(
            step=self.step,
            train_loss=losses[0],
            val_loss=losses[1],
            lr=learning_rate(self.step, spec),
            tokens_per_s=self.busy_tokens / self.busy_s if self.busy_s else None,
            elapsed_s=self._elapsed_s(),
        )
        self.busy_s, self.busy_tokens = 0.0, 0
        self.curve.append(point)
        self._save()
        speed = f", {point.tokens_per_s:,.0f} tokens/s" if point.tokens_per_s else ""
        said = f"loss {point.train_loss:.4f}, validation {point.val_loss:.4f}{speed}"
        print(f"step {self.step}: {said}", flush=True)
        progress.report(self.step, spec.steps, said)

    def _whole_validation(self) -> tuple[float, int] | None:
        """The loss over every whole block of the validation split, and of how many tokens."""
        return self._mean_loss(self.data.whole("val", self.spec.batch_size))

    @torch.no_grad()
    def _mean_loss(self, batches: Iterable[blocks.Pair]) -> tuple[float, int] | None:
        """The mean loss a token, and of how many; None where the work is asked to stop.

        Raises:
            _NotFinite: it is no finite number.
        """
        self.model.eval()
        total, count = 0.0, 0
        for pair in batches:
            if self.stop.requested:
                return None
            tokens, targets = self._placed(pair)
            loss = float(train_model.loss_of(self.model(tokens), targets))
            total += loss * tokens.numel()
            count += tokens.numel()
        if not math.isfinite(total):
            raise _NotFinite(f"the loss of an evaluation is {total / count}")
        return total / count, count

    def _placed(self, pair: blocks.Pair) -> blocks.Pair:
        return pair[0].to(self.device), pair[1].to(self.device)

    def _save(self) -> None:
        """Replace the checkpoint by one of this step.

        Raises:
            _NotFinite: a weight is no finite number. No loss need have told: a run that is asked
                to stop evaluates nothing, and a batch need not meet every row of a table.
            JobFailed: the disk is full, and there is a checkpoint before this one.
        """
        for name, parameter in self.model.named_parameters():
            if not bool(parameter.detach().isfinite().all()):
                raise _NotFinite(f"the parameter {name} is not finite")
        try:
            position = saved.Position(self.spec, self.step, self.curve, self._elapsed_s())
            saved.write(self.directory, self.model, self.optimizer, self.begun.files, position)
            partial = self.directory / f"{LOSS_TABLE}{PARTIAL}"
            partial.write_text(loss_table(self.curve))
            partial.replace(self.directory / LOSS_TABLE)
        except OSError as error:
            if self.saved_step is None:
                raise
            # Not a request that could not be met: what there is must be kept.
            raise JobFailed(
                f"cannot write the checkpoint of step {self.step}: {error}; that of step "
                f"{self.saved_step} is kept",
                hint="free space, then go on: invoke train --resume RUN",
            ) from error
        self.saved_step = self.step

    def _elapsed_s(self) -> float:
        return self.before_s + time.perf_counter() - self.began

    def _in_words(self, error: _NotFinite) -> str:
        kept = (
            "no checkpoint was written"
            if self.saved_step is None
            else f"the checkpoint of step {self.saved_step} is kept"
        )
        return f"{error} at step {self.step}: {kept}"

    def _training(
        self, stopped: Stopped, reason: str | None, full: tuple[float, int] | None
    ) -> Training:
        spec = self.spec
        best = min(self.curve, key=lambda point: point.val_loss, default=None)
        kept = self.directory / CHECKPOINT_DIR
        return Training(
            hyperparameters=Hyperparameters.model_validate(spec.model_dump()),
            preset=spec.preset,
            text=spec.text,
            text_sha256=spec.text_sha256,
            init_sha256=spec.init_sha256,
            resumed_from_step=self.resumed_from,
            seed=spec.seed,
            parameters=sum(tensor.numel() for tensor in self.model.parameters()),
            vocab_size=self.begun.vocab_size,
            train_tokens=len(self.data.train),
            val_tokens=len(self.data.val),
            steps_done=self.step,
            stopped=stopped,
            reason=reason,
            curve=self.curve,
            best_val_loss=best.val_loss if best else None,
            best_step=best.step if best else None,
            last_val_loss=self.curve[-1].val_loss if self.curve else None,
            full_val_loss=full[0] if full else None,
            full_val_tokens=full[1] if full else None,
            elapsed_s=self._elapsed_s(),
            checkpoint_step=self.saved_step,
            checkpoint_sha256=None if self.saved_step is None else checkpoint.digest(kept),
        )


def _device(spec: TrainSpec) -> torch.device:
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise UsageFault("PyTorch finds no GPU here", hint="--device cpu, or: invoke doctor")
    return torch.device(spec.device)
