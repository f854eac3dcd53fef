"""Jobs: what runs in an image, or in this environment."""

from __future__ import annotations

import os
from pathlib import Path

from invoke import Context

from bench.tasks.guard import help_if_asked, verb
from bench.tasks.options import GPU, JOB, MCPU, PIN


@verb(
    help={
        **JOB,
        "gpu": GPU,
        "backends": "comma-separated; default: torch-eager,torch-compile,onnxruntime,tvm-none,"
        "tvm-default,tvm-optimized; also tvm-bf16,tvm-int8 (the weights' type, on a CPU)",
        "mcpu": MCPU,
        "ladder": "measure every rung from tvm-none to tvm-optimized, on a CPU on to tvm-bf16 and "
        "tvm-int8; torch-compile and --backends beside them",
        "repeats": "samples per backend, 10 or more (default: at least 10, for at least 3 s)",
        "rounds": "fresh processes per backend, in turn; 10 or more allow a verdict (default: 1)",
        "pin": PIN,
        "operators": "profile some more calls afterwards, for where the time goes (default: yes)",
    }
)
def bench(
    c: Context,
    gpu: bool = False,
    engine: str = "auto",
    profile: str | None = None,
    base: str | None = None,
    image: str | None = None,
    model: str | None = None,
    layers: str | None = None,
    weights: str | None = None,
    mode: str | None = None,
    batch_size: str | None = None,
    seq_len: str | None = None,
    dtype: str | None = None,
    backends: str | None = None,
    ladder: bool = False,
    repeats: str | None = None,
    rounds: str | None = None,
    operators: bool = True,
    threads: str | None = None,
    pin: str | None = None,
    mcpu: str | None = None,
    seed: str | None = None,
    timeout: str | None = None,
    limits: str | None = None,
    out: str = "results",
) -> None:
    """Measure a GPT before and after TVM's optimisation, beside its peers; print the table."""
    from bench.host import jobs, request
    from bench.host import ladder as rungs

    asked = request.job(
        weights,
        Path(out),
        kind="bench",
        device="cuda" if gpu else "cpu",
        model=model,
        layers=layers,
        mode=mode,
        batch_size=batch_size,
        seq_len=seq_len,
        dtype=dtype,
        backends=rungs.backends(backends, "cuda" if gpu else "cpu") if ladder else backends,
        repeats=repeats,
        rounds=rounds,
        operators="table" if operators else "none",
        threads=threads,
        pin=pin,
        mcpu=mcpu,
        seed=seed,
        timeout_s=timeout,
    )
    jobs.run_job(
        asked.spec, jobs.Place(engine, profile, base, image, Path(out), limits), asked.inputs
    )


@verb(
    help={
        **JOB,
        "backends": "comma-separated TVM backends (default: tvm-none,tvm-default,tvm-optimized)",
        "mcpu": MCPU,
        "cuda-arch": "compile for this GPU architecture, as sm_86; needs no GPU",
    }
)
def compile(
    c: Context,
    engine: str = "auto",
    profile: str | None = None,
    base: str | None = None,
    image: str | None = None,
    model: str | None = None,
    layers: str | None = None,
    weights: str | None = None,
    mode: str | None = None,
    batch_size: str | None = None,
    seq_len: str | None = None,
    dtype: str | None = None,
    backends: str = "tvm-none,tvm-default,tvm-optimized",
    cuda_arch: str | None = None,
    threads: str | None = None,
    mcpu: str | None = None,
    seed: str | None = None,
    timeout: str | None = None,
    limits: str | None = None,
    out: str = "results",
) -> None:
    """Compile only, and keep the library and its parameters, so that bench need not."""
    from bench.host import jobs, request

    asked = request.job(
        weights,
        Path(out),
        kind="compile",
        device="cuda" if cuda_arch else "cpu",
        cuda_arch=cuda_arch,
        model=model,
        layers=layers,
        mode=mode,
        batch_size=batch_size,
        seq_len=seq_len,
        dtype=dtype,
        backends=backends,
        threads=threads,
        mcpu=mcpu,
        seed=seed,
        timeout_s=timeout,
    )
    jobs.run_job(
        asked.spec, jobs.Place(engine, profile, base, image, Path(out), limits), asked.inputs
    )


_PLACE_HELP = {
    name: JOB[name]
    for name in ("engine", "profile", "base", "image", "threads", "timeout", "limits", "out")
}


@verb(
    help={
        **_PLACE_HELP,
        "text": "a UTF-8 file, a URL, or a name in docker/pins.toml (default: tiny Shakespeare)",
        "preset": "char-cpu (default; minutes on two cores), char-gpu (default on a GPU), "
        "char-tiny (seconds), bigram (the baseline) or finetune (default with --init)",
        "steps": "updates to make, the resumed run's included (default: the preset's)",
        "resume": "go on with this run, exactly as if it had not stopped",
        "init": "begin with these weights: a run, a directory, or hf:gpt2",
        "device": "cpu (default) or cuda; --gpu is the same as --device cuda",
        "gpu": GPU,
        "batch-size": "sequences in one step",
        "block-size": "tokens in each",
        "layers": "blocks of the model",
        "heads": "heads of its attention",
        "width": "of its residual stream",
        "learning-rate": "the highest one; it warms up to it and falls as a cosine",
        "dropout": "share of activations dropped in training",
        "eval-every": "steps between two looks at the validation loss; each keeps a checkpoint",
        "seed": "of the first weights, the batches and the dropout (default: 0)",
        "timeout": "seconds after which the job is stopped (default: a day)",
    }
)
def train(
    c: Context,
    text: str | None = None,
    preset: str | None = None,
    steps: str | None = None,
    resume: str | None = None,
    init: str | None = None,
    device: str | None = None,
    gpu: bool = False,
    batch_size: str | None = None,
    block_size: str | None = None,
    layers: str | None = None,
    heads: str | None = None,
    width: str | None = None,
    learning_rate: str | None = None,
    dropout: str | None = None,
    eval_every: str | None = None,
    seed: str | None = None,
    threads: str | None = None,
    engine: str = "auto",
    profile: str | None = None,
    base: str | None = None,
    image: str | None = None,
    timeout: str | None = None,
    limits: str | None = None,
    out: str = "results",
) -> None:
    """Train a character-level GPT on a text, or go on with one; Ctrl-C keeps the checkpoint."""
    from bench.host import jobs
    from bench.host.train import plan

    spec, inputs = plan(
        results=Path(out),
        environ=os.environ,
        text=text,
        preset=preset,
        resume=resume,
        init=init,
        device="cuda" if gpu else device,
        steps=steps,
        batch_size=batch_size,
        block_size=block_size,
        n_layer=layers,
        n_head=heads,
        n_embd=width,
        learning_rate=learning_rate,
        dropout=dropout,
        eval_every=eval_every,
        seed=seed,
        threads=threads,
        timeout_s=timeout,
    )
    jobs.run_job(spec, jobs.Place(engine, profile, base, image, Path(out), limits), inputs)


@verb(
    help={
        **_PLACE_HELP,
        "run": "whose checkpoint: a run, `last`, a directory, or hf:gpt2",
        "prompt": "what to continue (default: one token of index 0, in a text the line break)",
        "tokens": "how many to add (default: 500)",
        "temperature": "below 1 is bolder in what is likely, 0 takes the likeliest (default: 1)",
        "top-k": "draw from so many of the likeliest (default: all)",
        "seed": "the same gives the same text (default: 0)",
        "backend": "torch-eager (default), torch-compile, onnxruntime, tvm-none, tvm-default, "
        "tvm-optimized, tvm-bf16, tvm-int8",
        "gpu": GPU,
    }
)
def generate(
    c: Context,
    run: str,
    gpu: bool = False,
    engine: str = "auto",
    profile: str | None = None,
    base: str | None = None,
    image: str | None = None,
    prompt: str | None = None,
    tokens: str | None = None,
    temperature: str | None = None,
    top_k: str | None = None,
    seed: str | None = None,
    backend: str | None = None,
    threads: str | None = None,
    timeout: str | None = None,
    limits: str | None = None,
    out: str = "results",
) -> None:
    """Continue a prompt with a trained model; the text comes as it is made."""
    help_if_asked(run, "generate")
    from bench.host import jobs, request

    asked = request.generation(
        run,
        Path(out),
        device="cuda" if gpu else "cpu",
        prompt=prompt,
        tokens=tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        backend=backend,
        threads=threads,
        timeout_s=timeout,
    )
    place = jobs.Place(engine, profile, base, image, Path(out), limits)
    jobs.generate(asked.spec, place, asked.inputs, prompt or "")


@verb(
    help={
        **_PLACE_HELP,
        "run": "whose checkpoint: a run, `last`, a directory, or hf:gpt2",
        "text": "the text; its last tenth is looked at (default: what the run was trained on)",
        "backends": "comma-separated (default: torch-eager,tvm-optimized); as tvm-bf16,tvm-int8",
        "batches": "look at so many batches of eight blocks only (default: the whole split)",
        "gpu": GPU,
    }
)
def evaluate(
    c: Context,
    run: str,
    gpu: bool = False,
    engine: str = "auto",
    profile: str | None = None,
    base: str | None = None,
    image: str | None = None,
    text: str | None = None,
    backends: str | None = None,
    batches: str | None = None,
    threads: str | None = None,
    timeout: str | None = None,
    limits: str | None = None,
    out: str = "results",
) -> None:
    """Measure a model's perplexity on a text's validation split, backend beside backend."""
    help_if_asked(run, "evaluate")
    from bench.host import jobs, request

    asked = request.evaluation(
        run,
        text,
        Path(out),
        device="cuda" if gpu else "cpu",
        backends=backends,
        batches=batches,
        threads=threads,
        timeout_s=timeout,
    )
    jobs.run_job(
        asked.spec, jobs.Place(engine, profile, base, image, Path(out), limits), asked.inputs
    )
