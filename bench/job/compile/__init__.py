"""A PyTorch module, through torch.export and Relax, to a shared library and its parameters.

    importer    torch.nn.Module -> Relax module and parameters
    layers      of identical layers the first is exported, for all
    pipelines   Relax module -> lowered module: "none", "default", "optimized", "tuned" and others
    schedules/  the kernels of "optimized", one operator family a file
    build       lowered module -> shared library; the library loaded again
    target      the machine that the code is for; cpu: its nearest kin that LLVM knows
    api         what is used of TVM; names: what its versions spell differently, and that alone

Importing this package imports neither torch nor tvm.
"""
