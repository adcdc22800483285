"""Work shared out to processes: all of it is done, and a process that dies does not leave its caller waiting."""

from __future__ import annotations

import os
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch

from experiments.worker_pool import mapper


def threads_and_double(number: int) -> tuple[int, int]:
    if number < 0:
        os._exit(1)
    return torch.get_num_threads(), 2 * number


@pytest.mark.parametrize("workers", [0, 2])
def test_every_item_is_worked_on_once(workers: int) -> None:
    with mapper(workers) as each:
        found = list(each(threads_and_double, range(5)))
    assert sorted(double for _, double in found) == [0, 2, 4, 6, 8]
    if workers:
        assert {threads for threads, _ in found} == {1}


def test_a_process_that_dies_is_an_error() -> None:
    with pytest.raises(BrokenProcessPool), mapper(1) as each:
        list(each(threads_and_double, [1, -1, 2]))
