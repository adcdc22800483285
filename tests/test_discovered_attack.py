"""The attack found by search: its losses, its space, what a candidate spends, and that the search pays."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcnas_env.attacks import attack_entry, discovered_reduced, run_attack
from rcnas_env.attacks.candidate import Candidate, loss_values, run_candidate, suggest
from rcnas_env.attacks.discovered import discover
from tests.attack_samples import Counting, linear_model, run, sample
from tests.trained_digits import EPS, trained_digits

SHORT: dict[str, int] = {"trials": 6, "samples": 24, "gradients": 20}


class Scaled(nn.Module):
    """The trained network with logits times 1000: float32 cross-entropy has no gradient where it is right."""

    def __init__(self) -> None:
        super().__init__()
        self.network = trained_digits()

    def forward(self, images: Tensor) -> Tensor:
        return 1000.0 * self.network(images)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_hand(candidate: Candidate, row: list[float], label: int, target: int | None) -> float:
    """The table of `loss_values`, number by number."""
    p = torch.tensor(row).softmax(0).tolist()
    s = p if candidate.probabilities else row
    order = sorted(s, reverse=True)
    other = max(each for i, each in enumerate(s) if i != label) if target is None else s[target]
    if candidate.loss == "ce":
        chosen = torch.tensor(p[label] if target is None else p[target]).log().item()
        return -chosen if target is None else chosen
    if candidate.loss == "l1":
        return -s[label] if target is None else s[target]
    if candidate.loss == "hinge":
        return -max(s[label] - other, 0.0)
    spread = order[0] - (order[2] if target is None else (order[2] + order[3]) / 2)
    return -(s[label] - other) / spread


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("loss", ["ce", "dlr", "hinge", "l1"])
def test_losses_are_their_formulas(loss: Any, probabilities: bool, targeted: bool) -> None:
    logits = torch.randn(20, 5, generator=stream())
    labels, targets = torch.arange(20) % 5, (torch.arange(20) + 1 + torch.arange(20) % 3) % 5
    candidate = Candidate("pgd", loss, probabilities, int(targeted))
    values = loss_values(candidate, logits, labels, targets if targeted else None)
    triples = zip(logits.tolist(), labels.tolist(), targets.tolist(), strict=True)
    expected = [by_hand(candidate, row, label, target if targeted else None) for row, label, target in triples]
    assert torch.allclose(values, torch.tensor(expected), atol=1e-5)


class Recorder:
    """Answers like a trial of optuna, one of its choices at random; keeps the choices that it was offered."""

    def __init__(self, seed: int) -> None:
        self.generator = stream(seed)
        self.offered: dict[str, Any] = {}

    def _draw(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        self.offered[name] = choices
        return choices[self._draw(0, len(choices) - 1)]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        self.offered[name] = (low, high)
        return self._draw(low, high)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        self.offered[name] = (low, high, log)
        return low


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 100])
def test_the_space(classes: int) -> None:
    recorders = [Recorder(seed) for seed in range(300)]
    candidates = [suggest(recorder, classes, 200) for recorder in recorders]
    assert {each.attack for each in candidates} == {"fgsm", "pgd", "apgd"}
    losses = {(each.loss, each.targets > 0) for each in candidates}
    assert (("dlr", False) in losses) == (classes >= 3) and (("dlr", True) in losses) == (classes >= 4)
    assert losses >= {(loss, targeted) for loss in ("ce", "hinge", "l1") for targeted in (False, True)}
    assert {each.targets for each in candidates} == set(range(min(9, classes - 1) + 1))
    offered: dict[str, Any] = {}
    for recorder in recorders:  # optuna wants one range for each name
        assert all(offered.setdefault(name, choices) == choices for name, choices in recorder.offered.items())
    assert offered["steps"] == (20, 200) and offered["restarts"] == (1, 10)
    assert offered["step_size"] == (1e-3, 1.0, True)
    assert not any(each.probabilities for each in candidates if each.loss == "ce")
    few = [suggest(Recorder(seed), classes, 7) for seed in range(50)]
    assert max(each.steps for each in few) == 7


def apply(candidate: Candidate, count: int = 48, gradients: int = 100, batch_size: int = 20) -> Any:
    images, labels = sample(count)
    return run_candidate(
        candidate, trained_digits(), images, labels, EPS, stream(), gradients=gradients, batch_size=batch_size
    )


def test_candidates_are_the_attacks_that_they_name() -> None:
    images, labels = sample(48)
    outcome = apply(Candidate("fgsm", "ce"))
    known = run("fgsm", count=48)
    assert torch.equal(~outcome.broken, known.robust)
    moved = known.clean_correct & outcome.broken
    assert torch.equal(outcome.points[moved], known.adversarial[moved])
    assert torch.equal(outcome.points[~outcome.broken], images[~outcome.broken])
    # PGD-20 from the same start: what its last iterate breaks, one of the iterates does.
    outcome = apply(Candidate("pgd", "ce", steps=20, step_size=0.1), batch_size=48)
    known = run_attack(attack_entry("pgd-20").make(EPS, 10), trained_digits(), images, labels, seed=0, batch_size=48)
    assert (outcome.broken | known.robust).all() and (outcome.broken & known.robust).sum() <= 2


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "apgd"])
@pytest.mark.parametrize("targets", [0, 3])
def test_outcomes_are_what_they_say(attack: Any, targets: int) -> None:
    images, labels = sample(48)
    for loss, probabilities in [("ce", False), ("dlr", True), ("hinge", False), ("l1", True)]:
        outcome = apply(Candidate(attack, loss, probabilities, targets, 10, 0.2, 2))
        assert (outcome.points - images).abs().max() <= EPS + 1e-6
        assert outcome.points.min() >= 0 and outcome.points.max() <= 1
        assert torch.equal(trained_digits()(outcome.points).argmax(1) != labels, outcome.broken)
        assert 4 < outcome.broken.sum() < 30
        entropy = F.cross_entropy(trained_digits()(outcome.points), labels).item()
        rest = 100 * (outcome.score - outcome.broken.float().mean().item())
        assert entropy - 1e-3 <= rest < 10  # the highest met, so no lower than at the points


@pytest.mark.parametrize(("attack", "steps"), [("fgsm", 1), ("pgd", 20), ("apgd", 20)])
def test_a_candidate_spends_no_more_gradients_than_allowed(attack: Any, steps: int) -> None:
    # Within 1e-6 nothing breaks: every image makes every run. A run looks once more at where it ended.
    images, _ = sample(10)
    labels = trained_digits()(images).argmax(1)
    candidate = Candidate(attack, "ce", targets=2, steps=steps, step_size=0.1, restarts=3)
    for gradients, looks in [(6 * steps, 6 * (steps + 1)), (2 * steps, 2 * (steps + 1)), (1, 2)]:
        model = Counting(trained_digits())
        run_candidate(candidate, model, images, labels, 1e-6, stream(), gradients=gradients, batch_size=4)
        assert model.images == 10 * (looks + 1)  # and once at the clean image


def test_finds_what_cross_entropy_does_not() -> None:
    images, labels = sample(40)
    attack = replace(attack_entry("discovered-reduced").make(EPS, 10), components=discovered_reduced(EPS, 10, **SHORT))
    plain = run_attack(attack_entry("pgd-20").make(EPS, 10), Scaled(), images, labels, seed=0, batch_size=40)
    found = run_attack(attack, Scaled(), images, labels, seed=0, batch_size=40)
    assert found.robust.sum() < plain.robust.sum() - 3
    best = discover(Scaled(), images, labels, EPS, 10, stream(), batch_size=40, **SHORT)
    assert best.loss != "ce" or best.targets > 0


def test_at_least_as_strong_as_pgd_20_and_fails_clean() -> None:
    images, labels = sample(60)
    attack = replace(
        attack_entry("discovered-reduced").make(EPS, 10),
        components=discovered_reduced(EPS, 10, trials=8, samples=30, gradients=40),
    )
    result = run_attack(attack, trained_digits(), images, labels, seed=0, batch_size=30)
    changed = (result.adversarial != images).flatten(1).any(1)
    assert torch.equal(changed, result.clean_correct & ~result.robust)
    assert result.robust.sum() <= run("pgd-20", count=60, batch_size=60).robust.sum()


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_and_colour_images_that_are_not_square(classes: int) -> None:
    weight = torch.randn(classes, 72, generator=stream(5))
    model, images = linear_model(weight), 0.3 + 0.4 * torch.rand(8, 3, 4, 6, generator=stream(6))
    labels = model(images).argmax(1)
    # Of a linear model each pairwise margin falls by eps · ‖w_y − w_i‖₁ at most, and no pixel clips here.
    (component,) = discovered_reduced(0.02, classes, **SHORT)
    points = component.perturb(model, images, labels, stream())
    logits = model(images)
    reach = 0.02 * (weight[labels][:, None] - weight[None]).abs().sum(-1)
    gaps = (logits.gather(1, labels[:, None]) - logits - reach).scatter(1, labels[:, None], float("inf"))
    certified = gaps.min(1).values > 1e-5
    broken = model(points).argmax(1) != labels
    assert not broken[certified].any() and broken.any()
    assert torch.equal(broken, gaps.min(1).values < -1e-5)


def test_the_search_leaves_optuna_as_found_and_names_it_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    images, labels = sample(6)
    (component,) = discovered_reduced(EPS, 10, trials=1, samples=2, gradients=2)
    before = optuna.logging.get_verbosity()
    component.perturb(trained_digits(), images, labels, stream())
    assert optuna.logging.get_verbosity() == before
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "optuna", None)  # Python's own way to say: not importable
        with pytest.raises(ImportError, match="discovered-reduced.*pip install optuna"):
            component.perturb(trained_digits(), images, labels, stream())


@pytest.mark.parametrize("field", ["attacks", "trials", "samples", "gradients"])
def test_bad_settings(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be an integer of at least 1, got 0"):
        discovered_reduced(EPS, 10, **{field: 0})
