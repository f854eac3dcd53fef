"""The CPU kernels of the "optimized" pipeline, one operator family a file.

    tile        how large a register tile the CPU affords
    linear      x @ W.T + b with W packed into panels once, and rows gathered from panels
    matmul      products of two activations
    attention   queries, keys and values in one kernel, of a prompt and of a single token
    rows        what reduces over the last axis: layer norm, softmax
    leftover    everything else: inlined, parallel, vectorised
    vectormath  exp and tanh as polynomials, so that they vectorise

A kernel is a TensorIR function for fixed shapes. Its loops are written out as they run: the
tails are handled by letting the last tile overlap the one before it, so no kernel computes
under a condition.
"""
