"""An attack of the trained engine that is interrupted."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rcnas_env.attacks import AttackProgress, catalogue, register_attack
from rcnas_env.evaluation import work
from rcnas_env.evaluation.store import FolderStore, MemoryStore
from rcnas_env.evaluation.trained import TrainedEvaluator
from rcnas_env.registry import Registry
from tests import tiny


def test_an_interrupted_attack_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def noise(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return (images + 0.05 * torch.rand(images.shape, generator=generator)).clamp(0, 1)

    monkeypatch.setattr(catalogue, "_fixed", Registry("attack"))
    monkeypatch.setattr(catalogue, "_known", list(catalogue._known))
    register_attack("interrupted", lambda eps, classes: noise)
    monkeypatch.setattr(work, "AttackProgress", functools.partial(AttackProgress, every_seconds=0))
    job = tiny.job(recipe=tiny.RECIPE.but(attack_batch_size=16), attack="interrupted")
    store = FolderStore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        TrainedEvaluator(store, device="cpu").evaluate([job])
    assert list((tmp_path / "under-way").iterdir())
    resumed = TrainedEvaluator(store, device="cpu").evaluate([job])[0]
    assert calls == [16, 14, 14]  # the first batch is not attacked again
    assert not list((tmp_path / "under-way").iterdir())
    whole = TrainedEvaluator(MemoryStore(), device="cpu").evaluate([job])[0]
    assert (resumed.robust, resumed.lips) == (whole.robust, whole.lips)
