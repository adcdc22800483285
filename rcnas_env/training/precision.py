"""Which number format a machine trains in faster."""

from __future__ import annotations

import functools

PRECISIONS = ("fp32", "bf16", "auto")

BF16_CAPABILITY = (8, 0)
"""CUDA compute capability from which tensor cores take bf16."""


def resolve_precision(precision: str) -> str:
    """Return "fp32" or "bf16" as they are; "auto" as the faster of the two on this machine."""
    if precision != "auto":
        return precision
    return "bf16" if has_fast_bf16() else "fp32"


@functools.cache
def has_fast_bf16() -> bool:
    """Whether the first GPU has bf16 tensor cores or, without a GPU, the processor has AMX.

    AVX-512's bf16 instructions alone do not count: converting back and forth costs small networks what they save.
    """
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= BF16_CAPABILITY
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())
