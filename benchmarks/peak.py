"""The most multiply-adds a second that this machine is seen to do: products of square matrices.

    python -m benchmarks.peak

GFLOP/s, two operations a multiply-accumulate, on one thread (or the GPU); the best of all products.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import tyro

from benchmarks.summary import print_summary
from benchmarks.timing import seconds_of
from rcnas_env.training.fit import cpu_threads

CPU_SIZES = (512, 1024, 2048)
GPU_SIZES = (4096, 8192)
"""Rows of the square matrices: large enough that arithmetic, not memory or launching, sets the pace."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Peak:
    """Settings of the measurement."""

    seconds: float = 0.5
    """Spent on each size of matrix in each number format; one product at least after one that is not counted."""
    device: str = "cpu"
    """"cpu" (one thread) or "cuda"."""
    json: bool = False
    """Print JSON with versions and hardware in place of text."""


def gemm_gflops(precision: str, device: str = "cpu", seconds: float = 0.5) -> float:
    """The best rate of a product of two square matrices in `precision` ("fp32" or "bf16"), GFLOP/s.

    On a GPU fp32 is float32 proper, not TF32: torch's default for products.
    """
    best = 0.0
    generator = torch.Generator(device=device).manual_seed(0)
    for size in GPU_SIZES if device.startswith("cuda") else CPU_SIZES:
        left, right = torch.randn((2, size, size), generator=generator, device=device).to(DTYPES[precision])
        out = left @ right  # plans and first touches are not counted
        deadline = time.perf_counter() + seconds
        while True:
            elapsed = seconds_of(lambda a=left, b=right, c=out: torch.mm(a, b, out=c), device)  # type: ignore[misc]
            best = max(best, 2 * size**3 / elapsed / 1e9)
            if time.perf_counter() >= deadline:
                break
        if elapsed > seconds:
            break  # no kernel of its own: larger ones would take minutes
    return best


def measure(config: Peak) -> dict[str, dict[str, float]]:
    """GFLOP/s by number format."""
    with cpu_threads(1):
        return {name: {"gflops": gemm_gflops(name, config.device, config.seconds)} for name in DTYPES}


def main() -> None:
    """Command line."""
    config = tyro.cli(Peak, description=__doc__)
    print_summary(measure(config), config.json, config)


if __name__ == "__main__":
    main()
