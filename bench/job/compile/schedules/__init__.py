"""The CPU kernels of the "optimized" pipeline, one operator family a file.

    tile        how large a register tile the CPU affords
    panels      a constant weight as it is packed, in float32 or fewer bits
    linear      x @ W.T + b with W packed into panels once, and rows gathered from panels
    prefetch    which of the next weights a product asks memory for
    matmul      products of two activations
    attention   queries, keys and values in one kernel, of a prompt and of a single token
    rows        what reduces over the last axis: layer norm, softmax
    leftover    everything else: inlined, parallel, vectorised
    vectormath  exp and tanh as polynomials, so that they vectorise
    plain       what a kernel computes, unscheduled: what a search begins with
    gpu/        attention on a GPU

A kernel is a TensorIR function for fixed shapes. Its loops are written out as they run. Tails of
x and of activations are handled by letting the last tile overlap the one before it; of a weight
the last panel is filled up with zeros, and what is beyond it is not written.
"""
