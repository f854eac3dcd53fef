"""Where a call's time goes: what ran in it, by the backend's own profiler, after it was timed.

``events`` is the one form that every profiler is brought to; ``kineto`` (PyTorch) and
``instrument`` (TVM) do so; ``table`` and ``trace`` are made from it; ``taking`` is when.
"""

from __future__ import annotations

# What a backend's process has measured, while its profiler runs: a profiler that ends the process
# must not cost the measurement. Beside the step's report, with this in place of ``.json``.
MEASURED = ".measured.json"
