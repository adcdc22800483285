"""What only a GPU shows: attacks, verdicts, trainings and prunings there, and the random streams that they leave."""

from __future__ import annotations

import copy

import pytest
import torch

from rcnas_env.attacks import run_attack
from rcnas_env.data import load_splits
from rcnas_env.evaluation.trained import TrainedEvaluator
from rcnas_env.networks.frozen import freeze
from rcnas_env.pruning import PruningRecipes, prune
from rcnas_env.training.fit import fit
from tests import tiny
from tests.attack_samples import every_attack, make, sample
from tests.trained_digits import EPS, trained_digits

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)


@every_attack
def test_an_attack_keeps_its_contract(name: str) -> None:
    images, labels = (tensor.cuda() for tensor in sample())
    model = copy.deepcopy(trained_digits()).cuda()
    streams = torch.get_rng_state(), torch.cuda.get_rng_state()
    result, again = (run_attack(make(name), model, images, labels, seed=5, batch_size=16) for _ in range(2))
    assert result.adversarial.is_cuda and result.adversarial.dtype == torch.float32
    assert (result.adversarial - images).abs().max() <= EPS + 1e-6
    assert result.adversarial.min() >= 0 and result.adversarial.max() <= 1
    right = model(result.adversarial).argmax(1) == labels
    assert torch.equal(result.robust, result.clean_correct & right)
    assert (result.robust == again.robust).float().mean() > 0.9  # kernels need not repeat to the bit there
    assert torch.equal(torch.get_rng_state(), streams[0]) and torch.equal(torch.cuda.get_rng_state(), streams[1])


@pytest.mark.parametrize("attack", ["pgd-20", "auto-lite"])
def test_an_evaluation_is_much_as_on_the_cpu(attack: str) -> None:
    job = tiny.job(attack=attack)
    there, here = (
        TrainedEvaluator(tiny.CountingStore(), device=device).evaluate([job])[0] for device in ("cuda", "cpu")
    )
    assert not there.diverged and there.provenance["device"] != "cpu"
    assert there.clean_accuracy == pytest.approx(here.clean_accuracy, abs=0.35)
    assert there.robust_accuracy <= there.clean_accuracy


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_and_its_frozen_twin(precision: str) -> None:
    data = load_splits("digits", 30).train.subset(torch.arange(400))
    model = tiny.built().cuda()
    report = fit(model, data, tiny.RECIPE.but(epochs=3, precision=precision), 0.1, 0, "cuda", crop_padding=1)
    assert not report.diverged and report.losses[-1] < report.losses[0]
    images = data.images("cuda")[:64]
    with torch.no_grad():
        expected, found = model(images), freeze(model)(images)
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()  # TF32 has ten bits


@pytest.mark.parametrize("method", ["hydra", "harp"])
def test_a_pruning(method: str) -> None:
    data = load_splits("digits", 30).train.subset(torch.arange(256))
    model = tiny.built()
    report = prune(model, data, method, 0.3, PruningRecipes(*(tiny.RECIPE,) * 3), 0.1, 0, "cuda")
    assert not report.diverged and next(model.parameters()).is_cuda
    assert report.nonzero_params < 0.5 * sum(parameter.numel() for parameter in model.parameters())
