"""A layer that a model has many of: what lets a compiler take one of them for all."""

from __future__ import annotations

import torch.nn as nn


class Repeated(nn.Module):
    """One of the layers in a ``nn.ModuleList`` that differ in their parameters' numbers alone.

    It promises that ``forward`` takes and gives tensors and does nothing else, to them or to
    anything; that nobody writes into what it gives, or hands it one of its parameters beside; and
    that a model uses its layers by calling them, in its own ``forward``.
    """
