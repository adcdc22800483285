"""What it is worth to compile a network for its training: the parts of `benchmarks.training --compiled`.

Compiling is measured as a search meets it: the process has compiled something before, this network never. What a
process does once (loading the compiler, starting its helpers, headers) is a figure of its own.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.contender import Contender
from benchmarks.timing import interleaved, spread
from benchmarks.training_steps import STEPS_TO_COMPILE, prepare_cold
from rcnas_env.architecture import NetworkSpec
from rcnas_env.training.compilation import ONLY_ON_GPU, require_compiler
from rcnas_env.training.recipe import COMPILATIONS, Recipe

CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def compilations_on(device: str) -> tuple[str, ...]:
    """The kinds of compilation that `device` ("cpu", "cuda", …) can have."""
    gpu = device.startswith("cuda")
    return tuple(each for each in COMPILATIONS if each != "off" and (gpu or each not in ONLY_ON_GPU))


@contextmanager
def new_compiler_cache() -> Iterator[None]:
    """Inside, processes that start (and this one, where it has not compiled yet) find nothing compiled on disk."""
    before = {name: os.environ.get(name) for name in CACHES}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ.update({name: os.path.join(folder, name.lower()) for name in CACHES})
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def prepare_compiler(compilation: str, device: str) -> Callable[[], float]:
    """A function that compiles a first small function in its process, and returns the seconds that took."""

    def start() -> float:
        """Compile the function; seconds."""
        began = time.perf_counter()
        require_compiler(compilation, torch.device(device))
        return time.perf_counter() - began

    return start


def prepare_skips() -> Callable[[], int]:
    """A function that returns how many graphs its process has not recorded, because torch found that it could not."""

    def skips() -> int:
        """Torch's own count."""
        from torch._dynamo.utils import counters

        return counters["inductor"]["cudagraph_skips"]

    return skips


def worth(
    plain: Contender, compiling: Contender, job: tuple[NetworkSpec, Recipe, str], pairs: int, seconds: float
) -> dict[str, Any]:
    """What compiling a network takes, what a step takes after and without it, and after how many steps it pays.

    Args:
        plain, compiling: processes; `compiling` has compiled something before.
        job: network, recipe with its compilation, device.
        pairs: of steps to time, at least.
        seconds: more pairs follow until so many seconds are spent.

    Returns:
        compile_seconds: what the first steps took more than as many later ones. ms, plain_ms: of a step. ratio:
        plain to compiled, of the pairs, with its spread. pays_after_steps: 0 where compiling took nothing, None where
        no step is saved. graphs_skipped: how many graphs were not recorded as CUDA graphs although asked for.
    """
    spec, recipe, device = job
    without = (spec, recipe.but(compilation="off"), device)
    plain.prepare(prepare_cold, *without)
    compiling.prepare(prepare_cold, *job)
    first = [compiling.run(prepare_cold, *job) for _ in range(STEPS_TO_COMPILE)]
    plain.run(prepare_cold, *without)
    found = interleaved(
        lambda: plain.run(prepare_cold, *without), lambda: compiling.run(prepare_cold, *job), pairs, seconds
    )
    off, on = (statistics.median(column) for column in zip(*found, strict=True))
    compile_seconds = sum(first) - STEPS_TO_COMPILE * on
    figures = {
        "compile_seconds": compile_seconds,
        "ms": 1e3 * on,
        "plain_ms": 1e3 * off,
        **spread([pair[0] / pair[1] for pair in found], "ratio"),
        "pairs": len(found),
        "pays_after_steps": round(max(0.0, compile_seconds) / (off - on)) if off > on else None,
    }
    return figures | ({"graphs_skipped": compiling.run(prepare_skips)} if recipe.compilation in ONLY_ON_GPU else {})
