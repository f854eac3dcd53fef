"""What is done once for all layers of a model, and what is left when the rest is taken away."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from torch import fx

from bench.catalog import GPTConfig
from bench.job import gpt
from bench.job.compile import api, fuse_attention, importer, rewrite
from bench.job.compile.schedules import attention, linear, rows
from bench.job.compile.target import detect_cpu
from bench.job.decoder import programs

HOST = detect_cpu(2)


def rewritten(depth: int, program: str | None) -> Any:
    config = GPTConfig(n_layer=depth, n_head=2, n_embd=16, block_size=16, vocab_size=31)
    model = gpt.build(config, 1)
    if program is None:
        mod = importer.import_module(model, (gpt.tokens_for(config, 1, 6, 1),)).mod
    else:
        wanted = programs(model, 1, 6, 12)[program]
        mod = importer.import_module(wanted.module, wanted.example).mod
    return rewrite.use_kernels(fuse_attention.use_attention(mod, HOST), HOST)


@pytest.mark.parametrize("program", [None, "prefill", "step"])
def test_a_kernel_is_written_once_for_all_layers(
    program: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    for module in (linear, rows, attention):
        write = module.prim_func

        def noted(name: str, body: Any, write: Any = write) -> Any:
            written.append(name)
            return write(name, body)

        monkeypatch.setattr(module, "prim_func", noted)
    counts = []
    for depth in (3, 8):
        written.clear()
        rewritten(depth, program)
        counts.append(Counter(written))
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) > 5


@pytest.mark.parametrize("program", [None, "prefill", "step"])
def test_no_python_code_is_written_for_all_layers(
    program: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    whole: list[int] = []
    write, bring = fx.Graph.python_code, api.import_exported

    def noted(graph: fx.Graph, *args: Any, **named: Any) -> Any:
        sizes.append(len(graph.nodes))
        return write(graph, *args, **named)

    def brought(exported: Any) -> Any:
        whole.append(len(exported.graph_module.graph.nodes))
        return bring(exported)

    monkeypatch.setattr(fx.Graph, "python_code", noted)
    monkeypatch.setattr(api, "import_exported", brought)
    rewritten(8, program)
    assert sizes and 2 * max(sizes) < whole[0]


@pytest.mark.parametrize("program", [None, "prefill", "step"])
def test_nothing_is_left_that_nobody_reads_or_calls(program: str | None) -> None:
    mod = rewritten(4, program)
    main = mod["main"]
    bindings = [one for block in main.body.blocks for one in block.bindings]
    read = set(api.relax.analysis.free_vars(main.body.body))
    for binding in bindings:
        read |= set(api.relax.analysis.free_vars(binding.value))
    assert not [binding.var for binding in bindings if binding.var not in read]
    called = {b.value.args[0] for b in bindings if api.is_call(b.value, "relax.call_tir")}
    functions = {var for var in mod.get_global_vars() if var != mod.get_global_var("main")}
    assert functions == called
    # Of the products none is left to TVM, and of attention's softmax nothing.
    left = {str(getattr(binding.value, "op", "")) for binding in bindings}
    assert not [one for one in left if "matmul" in one or "softmax" in one]
