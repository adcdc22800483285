"""The process-wide random streams, lent to a library that draws from nothing else, and given back as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def lent_random_streams(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Inside, the streams of torch (CPU and CUDA), numpy and Python are seeded with `seed`.

    Afterwards, also after an exception, they are as before, and so are cuDNN's flags for determinism, which
    stable-baselines3 sets along with the seed.

    Args:
        seed: in [0, 2**63).
        device: where the library computes.
    """
    # torch.manual_seed seeds every CUDA device, not only the one in use
    cuda = torch.device(device).type == "cuda" or torch.cuda.is_initialized()
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (to restore the global one)
    deterministic, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if cuda else ()):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            random.seed(seed)
            yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        if not cuda and not torch.cuda.is_initialized():
            # torch keeps the last seed to apply when CUDA starts: make that the caller's again
            torch.cuda.manual_seed_all(torch.initial_seed())
