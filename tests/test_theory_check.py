"""The theory check: decomposition, gradient movement, compression and training against closed forms; its verdict."""

from __future__ import annotations

import itertools
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import theory_check
from experiments.theory.comparison import FULL, run_seed
from experiments.theory.compression import Subnetwork, narrowed, zeroed
from experiments.theory.gradient_movement import Probe, gradient_movement
from experiments.theory.mixtures import bound_without_constant, decompose, expected_maximum
from experiments.theory.perturbation import fast_gradient, worst_margin
from experiments.theory.settings import TheorySettings
from experiments.theory.sparse_coding import SparseCoding
from experiments.theory.symmetric_network import SymmetricNetwork
from experiments.theory.training import draws, step, train_adversarially
from experiments.theory.verdict import CLAIMS, find, findings
from experiments.theory_check import TheoryCheck, check
from tests.theory_samples import TAU, batch, network, task, torch_loss

TINY = TheorySettings(
    dimension=16, sparsity=2, neurons=24, shares=(0.5,), clean_steps=300, adversarial_steps=150, probe=200, test=200
)


# --- mixtures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.1, 0.5, 1.0])
def test_a_weight_is_pure_plus_dense_and_the_two_are_orthogonal(threshold: float) -> None:
    net, atoms = network(neurons=40), task().dictionary
    mixtures = decompose(net.weights, atoms, threshold)
    np.testing.assert_allclose(mixtures.pure + mixtures.dense, net.weights, atol=1e-6)
    pure, dense = mixtures.pure @ atoms, mixtures.dense @ atoms
    np.testing.assert_allclose(pure * dense, 0, atol=1e-6)
    energy = (net.weights**2).sum()
    assert mixtures.dense_share == pytest.approx((mixtures.norms**2).sum() / energy, rel=1e-5)
    sizes = np.abs(net.weights @ atoms)
    assert (np.abs(dense).max(axis=1) < threshold * sizes.max(axis=1)).all()
    if threshold == 1:
        np.testing.assert_allclose(mixtures.norms**2, (sizes**2).sum(axis=1) - sizes.max(axis=1) ** 2, atol=1e-6)


def test_planted_features_are_found() -> None:
    atoms = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    parts = np.array([[2.0, -1.0, 0.6, 0.8, 0, 0], [0, 0, 0, 0, 0, 3.0], [0, 0, 0, 0, 0, 0]])
    half = decompose(parts @ atoms.T, atoms, 0.49)
    np.testing.assert_allclose(half.norms, [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(half.pure[0], 2 * atoms[:, 0] - atoms[:, 1])
    assert half.dense_share == pytest.approx(1 / 15)
    np.testing.assert_allclose(decompose(parts @ atoms.T, atoms, 1.0).norms, [math.sqrt(2), 0, 0], atol=1e-12)
    assert decompose(np.zeros((2, 6)), atoms, 0.5).dense_share == 0


@pytest.mark.parametrize("count", range(1, 8))
def test_the_expected_maximum_is_the_mean_over_all_choices(count: int) -> None:
    values = np.array([0.3, 2.0, 0.1, 0.3, 5.0, 1.0, 0.7])
    choices = [max(chosen) for chosen in itertools.combinations(values, count)]
    assert expected_maximum(values, count) == pytest.approx(np.mean(choices))


def test_the_bracket_of_equation_20() -> None:
    assert bound_without_constant(0.0, 0.3, 100, 4, 0.1, 0.5) == pytest.approx(0.04 * 0.5 + 0.02)
    # D = e², k = 1, b = 1, r = 1, τ = 0: √k/D + (√(k/D) + 2 σ_x)/D + 1/D
    size = round(math.e**2)
    by_hand = (1 + math.sqrt(1 / size) + 0.1 * math.log(size) + 1) / size
    assert bound_without_constant(1.0, 1.0, size, 1, 0.1, 0.0) == pytest.approx(by_hand)


# --- gradient movement ------------------------------------------------------------------------------------------------


def test_the_movement_is_that_of_all_pairs_of_samples() -> None:
    net = network(neurons=3)
    inputs, labels, noise = batch(12, net)
    found = gradient_movement(net, Probe(inputs, labels, noise), TAU)
    shifted = inputs + fast_gradient(net, inputs, labels, noise, TAU)
    pulls = 1 / (1 + np.exp(labels * net.output(shifted, noise)))
    for i, weight in enumerate(net.weights):
        terms = [
            y * pull * float(weight @ x + rho[i] >= net.bias) * x
            for x, y, rho, pull in zip(shifted, labels, noise, pulls, strict=True)
        ]
        pairs = np.mean([a @ b for a, b in itertools.permutations(terms, 2)])
        assert found[i] == pytest.approx(math.sqrt(max(pairs, 0)))
    assert (found > 0).any()


def test_the_movement_is_half_the_gradient_of_the_adversarial_loss() -> None:
    net = network()
    inputs, labels, noise = batch(40_000, net)
    mean = gradient_movement(net, Probe(inputs, labels, noise), TAU)
    inputs, labels, noise = batch(40_000, net, seed=3)
    delta = fast_gradient(net, inputs, labels, noise, TAU)
    lengths = np.linalg.norm(net.gradient(inputs + delta, labels, noise), axis=1)
    np.testing.assert_allclose(mean, lengths / 2, rtol=0.1)


def test_free_and_held_parts_of_the_movement_add_up() -> None:
    net, atoms = network(), task().dictionary
    probe = Probe(*batch(5000, net))
    kept = zeroed(net, 0.5, atoms).zeros
    assert kept is not None
    whole = gradient_movement(net, probe, TAU)
    free, held = (gradient_movement(net, probe, TAU, replace(kept, free=part)) for part in (kept.free, 1 - kept.free))
    assert free.min() > 0 and held.min() > 0
    np.testing.assert_allclose(free**2 + held**2, whole**2, rtol=1e-5)


# --- compression and training -----------------------------------------------------------------------------------------


def test_narrowing_keeps_the_first_neurons() -> None:
    sub = narrowed(network(neurons=8), 0.25)
    np.testing.assert_array_equal(sub.network.weights, network(neurons=8).weights[:2])
    assert sub.zeros is None


@pytest.mark.parametrize("in_dictionary", [False, True])
def test_zeroing_keeps_the_largest_and_training_keeps_the_rest_zero(in_dictionary: bool) -> None:
    net, atoms = network(), task().dictionary
    sub = zeroed(net, 0.25, atoms if in_dictionary else None)
    basis = atoms if in_dictionary else np.eye(12)
    sizes = np.abs(net.weights @ basis)
    held = sub.zeros.free == 0 if sub.zeros else np.ones(1)
    assert (~held).sum() == 21 and sizes[~held].min() > sizes[held].max()
    np.testing.assert_allclose((sub.network.weights @ basis)[~held], (net.weights @ basis)[~held], atol=1e-6)
    trained = train_adversarially(
        {"zeroed": sub, "dense": Subnetwork(net)}, task(), replace(TINY, neurons=7, adversarial_steps=5),
        np.random.default_rng(0), lambda *_: None,
    )  # fmt: skip
    after = np.abs(trained["zeroed"].network.weights @ basis)
    assert after[held].max() < 1e-6 < np.abs(after - sizes)[~held].max()
    assert np.abs(trained["dense"].network.weights - net.weights).max() > 1e-3


def test_a_step_is_that_of_the_loss_with_its_regulariser() -> None:
    net, rate, decay = network(), 0.5, 0.1
    sample = batch(30, net)
    weights = torch.from_numpy(net.weights).requires_grad_()
    lengths = weights.norm(dim=1)
    loss = torch_loss(weights, net, *sample) + decay * (lengths**2 / 2 + lengths**3 / 3).sum()
    loss.backward()
    assert weights.grad is not None
    expected = net.weights - rate * weights.grad.numpy()
    np.testing.assert_allclose(step(Subnetwork(net), *sample, rate, decay).network.weights, expected, atol=1e-12)


def test_networks_share_samples_and_the_first_columns_of_the_noise() -> None:
    settings = replace(TINY, adversarial_steps=5)
    drawn = SparseCoding.draw(16, 2, 0.05, np.random.default_rng(0))
    full = SymmetricNetwork(draws(drawn, settings, 24, np.random.default_rng(1))[0], 0.1, 0.05)
    together, alone = (
        train_adversarially(subs, drawn, settings, np.random.default_rng(2), lambda *_: None)["half"]
        for subs in ({FULL: Subnetwork(full), "half": narrowed(full, 0.5)}, {"half": narrowed(full, 0.5)})
    )
    np.testing.assert_array_equal(together.network.weights, alone.network.weights)


def test_the_bias_grows_to_its_end_and_checkpoints_lie_from_first_to_last() -> None:
    settings = TheorySettings(clean_steps=100, adversarial_steps=64, checkpoints=8, bias_start=0.1, bias_end=0.3)
    assert [settings.bias(t) for t in (0, 25, 50, 99)] == pytest.approx([0.1, 0.2, 0.3, 0.3])
    assert settings.moments() == [0, 1, 2, 4, 8, 16, 32, 64]


def test_a_seed_decides_everything_and_features_are_purified() -> None:
    first, again, other = run_seed(TINY, 3), run_seed(TINY, 3), run_seed(TINY, 4)
    assert first == again and first != other
    assert list(first) == [FULL, "width 0.5", "edges 0.5", "atoms 0.5"]
    assert [each.weights for each in first.values()] == [24 * 16, 12 * 16, 12 * 16, 12 * 16]
    assert [each.neurons for each in first.values()] == [24, 12, 24, 24]
    full = first[FULL]
    assert full.full_by_chance == pytest.approx(full.adversarial.mixture)
    assert full.adversarial.mixture < full.clean.mixture and full.adversarial.accuracy > 0.8
    for each in first.values():
        assert len(each.movement) == len(TINY.moments())
        for state in (each.clean, each.adversarial):
            assert state.robust_accuracy <= state.accuracy and state.mixture <= state.mixture_strict <= state.longest


# --- verdict ----------------------------------------------------------------------------------------------------------


def test_counts_have_exact_intervals_and_a_sign_test() -> None:
    found = find("claim", "network", [-1.0] * 10)
    assert (found.held, found.seeds, found.word) == (10, 10, "held")
    assert found.sign_test == pytest.approx(2 / 2**10)
    assert (found.low, found.high) == (pytest.approx(0.025**0.1), 1)
    mixed = find("claim", "network", [1.0, 2.0, 3.0, 0.0])
    assert (mixed.held, mixed.word, mixed.sign_test) == (1, "open", pytest.approx(2 / 2**3))
    half = 3.182446 * math.sqrt(5 / 3) / 2  # t of 3 degrees, standard deviation of 0 … 3, √4
    assert (mixed.excess_low, mixed.excess_high) == (pytest.approx(1.5 - half), pytest.approx(1.5 + half))
    assert find("claim", "network", [1.0] * 10).word == "failed"
    assert find("claim", "network", [0.0, 0.0]).sign_test == 1


def test_claims_hold_of_equals_and_fail_of_what_is_worse() -> None:
    full = run_seed(replace(TINY, clean_steps=5, adversarial_steps=5), 0)[FULL]
    between = [claim for claim in CLAIMS if not claim.of_full]
    assert [claim.excess(full, full) for claim in between] == pytest.approx([0] * len(between), abs=1e-9)
    state = full.adversarial
    worse = replace(
        full,
        movement=[*full.movement[:-1], full.movement[-1] + 1],
        free_movement=[full.free_movement[0] + 1, *full.free_movement[1:]],
        mean_movement=[full.mean_movement[0] + 1, *full.mean_movement[1:]],
        constant=full.constant + 1,
        adversarial=replace(
            state,
            mixture=state.mixture + 1, mixture_strict=state.mixture_strict + 1, mean_mixture=state.mean_mixture + 1,
            dense_share=state.dense_share + 1, robust_accuracy=state.robust_accuracy - 1,
        ),
    )  # fmt: skip
    missed = {each.claim for each in findings([{FULL: full, "worse": worse}] * 2) if each.network == "worse"}
    assert missed == {claim.name for claim in CLAIMS}
    excess = {claim.name: claim.excess(worse, full) for claim in between}
    # only the last checkpoint is worse
    of_some = {"Lemma 3.1 at t = T: max ΔL ≤ full's": 0, "same, mean over t": 1 / len(full.movement)}
    assert excess == pytest.approx({claim.name: of_some.get(claim.name, 1) for claim in between})


# --- command and bad input --------------------------------------------------------------------------------------------


def test_the_command_writes_table_figure_and_record(tmp_path: Path) -> None:
    seen: list[int] = []
    config = TheoryCheck(
        **{**vars(TINY), "clean_steps": 20, "adversarial_steps": 6, "test": 50}, seeds=2, out=tmp_path / "run"
    )
    folder = check(config, seen.append)
    assert seen == [0, 1]
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    table = (folder / "table.md").read_text(encoding="utf-8")
    assert record["config"]["neurons"] == 24 and record["results"]["moments"][-1] == 6
    names = [row["network"] for row in record["results"]["networks"]]
    assert names == [FULL, "width 0.5", "edges 0.5", "atoms 0.5"]
    assert {each["claim"] for each in record["results"]["findings"]} == {claim.name for claim in CLAIMS}
    for each in record["results"]["findings"]:
        assert len(each["excesses"]) == 2 and f"{each['word']} {each['held']}/2" in table
    assert (folder / "theory.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dimension": 1}, "dimension must be"),
        ({"sparsity": 101}, "sparsity must be an integer from 1 to 100, got 101"),
        ({"noise": -0.1}, "noise must be"),
        ({"neurons": 0}, "neurons must be"),
        ({"shares": ()}, "shares must be one or more"),
        ({"shares": (0.5, 0.5)}, "shares must be one or more"),
        ({"shares": (1.0,)}, "shares must be below 1"),
        ({"shares": (0.001,)}, "leave at least one neuron"),
        ({"batch": True}, "batch must be an integer"),
        ({"learning_rate": 0.0}, "learning_rate must be"),
        ({"threshold": 1.5}, "threshold must be"),
        ({"checkpoints": 1}, "checkpoints must be"),
        ({"radius": math.inf}, "radius must be"),
        ({"seeds": 1}, "seeds must be an integer of at least 2, got 1"),
    ],
)
def test_bad_settings_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TheoryCheck(**changed)


def test_bad_arguments_are_named() -> None:
    net, data = network(), task()
    inputs, labels, _ = batch(3, net)
    for message, call in {
        "dictionary must be of shape": lambda: replace(data, dictionary=np.eye(3)),
        "n must be": lambda: data.codes(0, np.random.default_rng(0)),
        "weights must be of shape": lambda: SymmetricNetwork(np.zeros((0, 3)), 0.1, 0.1),
        "smoothing must be": lambda: network(smoothing=-1.0),
        "steps must be": lambda: worst_margin(net, data, inputs, labels, TAU, 0),
        "threshold must be": lambda: decompose(net.weights, data.dictionary, 0.0),
        "dictionary must be": lambda: decompose(net.weights, np.eye(5), 0.5),
        "count must be an integer from 1 to 4, got 5": lambda: expected_maximum(np.ones(4), 5),
        "share must be": lambda: zeroed(net, 0.0),
        "excesses must be two or more": lambda: find("claim", "network", [math.nan, 1.0]),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_the_command_line_names_bad_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["theory_check", "--seeds", "0"])
    with pytest.raises(SystemExit, match="2"):
        theory_check.main()
    assert "seeds must be an integer of at least 2, got 0" in capsys.readouterr().err


def test_a_training_that_diverges_is_named() -> None:
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="learning_rate or adversarial_rate is too large"):
        run_seed(replace(TINY, learning_rate=1e6, clean_steps=20, adversarial_steps=5), 0)
