"""What a training leaves behind is given back."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from rcnas_env.evaluation.workers import Workers
from rcnas_env.training.freed_memory import KEPT_KERNELS, KERNELS_VARIABLE, give_back_freed_memory

SCATTERED, BLOCK = 20_000, 4_096


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="GNU C library")
def test_memory_that_lies_free_between_blocks_in_use_is_given_back() -> None:
    give_back_freed_memory()
    blocks = [np.ones(4 * BLOCK, dtype=np.uint8) for _ in range(SCATTERED)]
    kept = [block[:1].copy() for block in blocks]  # something that stays behind
    full = resident_mib()
    blocks = blocks[::20]
    given = give_back_freed_memory()
    assert given
    assert full - resident_mib() > 0.6 * SCATTERED * 4 * BLOCK / 2**20
    assert len(kept) == SCATTERED and len(blocks) == SCATTERED // 20


def kernels() -> str | None:
    return os.environ.get(KERNELS_VARIABLE)


@pytest.mark.parametrize("set_before", [None, "7"])
def test_workers_keep_few_kernels_unless_told_otherwise(
    set_before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KERNELS_VARIABLE, raising=False)
    if set_before is not None:
        monkeypatch.setenv(KERNELS_VARIABLE, set_before)
    workers = Workers(1)
    try:
        assert workers.submit(kernels).result() == (set_before or str(KEPT_KERNELS))
    finally:
        workers.close()
    assert os.environ.get(KERNELS_VARIABLE) == set_before
