"""What every test on a GPU needs beside the GPU."""

from __future__ import annotations

import pytest


@pytest.fixture
def cuda_torch() -> None:
    import torch

    if torch.version.cuda is None:
        pytest.skip("torch is a CPU build here: make setup TORCH=cuda")
