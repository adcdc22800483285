"""The critic against a Gaussian process solved densely, and what it remembers, forgets and refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import multivariate_normal

import agents.critic
from agents.critic import (
    LENGTH_SCALES,
    NOISE,
    OFFSET_VARIANCE,
    OWN_SHARE,
    RETUNE,
    SIGNAL,
    AccuracyCritic,
    student_features,
)
from rcnas_env.architecture import NetworkSpec, StageSpec, StemSpec
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from tests.landscape import teacher

Floats = NDArray[np.float64]
Observed = tuple[NetworkSpec, str, float]
PRIOR = SIGNAL * (1 + OWN_SHARE) + OFFSET_VARIANCE
"""Variance of what nothing is known of."""


def students(count: int, seed: int = 0) -> list[NetworkSpec]:
    """Different ones of the same teacher."""
    rng, found = np.random.default_rng(seed), dict[NetworkSpec, None]()
    while len(found) < count:
        action = {"keep": rng.random((3, 2), dtype=np.float32), "switch": rng.integers(0, 2, (3, 2), dtype=np.int8)}
        found[compress(teacher(), action)] = None
    return list(found)


def observations(count: int, seed: int = 0, attacks: Sequence[str] = ("fgsm", "pgd")) -> list[Observed]:
    """Accuracies that depend smoothly on the student, with an offset of the attack, and noise."""
    rng, found = np.random.default_rng(seed), list[Observed]()
    for index, student in enumerate(students(count, seed)):
        attack = attacks[index % len(attacks)]
        y = 0.7 + 0.15 * math.sin(sum(student_features(student)[:4])) - 0.2 * attacks.index(attack)
        found.append((student, attack, math.sin(y + 0.03 * rng.standard_normal()) ** 2))
    return found


def covariance(a: Sequence[tuple[NetworkSpec, str]], b: Sequence[tuple[NetworkSpec, str]], length: float) -> Floats:
    """k((s, a), (s', a')) of the module's docstring, entry by entry."""
    found = np.zeros((len(a), len(b)))
    for i, (student, attack) in enumerate(a):
        for j, (other, another) in enumerate(b):
            squared = np.sum((np.array(student_features(student)) - student_features(other)) ** 2)
            shared = SIGNAL * np.exp(-squared / (2 * length**2))
            found[i, j] = shared + (attack == another) * (OWN_SHARE * shared + OFFSET_VARIANCE)
    return found


class DenseProcess:
    """The same model by numpy's general solver, from all points each time; tuned by scipy's density."""

    def __init__(self) -> None:
        self.values: dict[tuple[NetworkSpec, str], list[float]] = {}
        self.length, self.tuned_on = LENGTH_SCALES[0], 0

    def observe(self, student: NetworkSpec, attack: str, accuracy: float) -> None:
        known = self.values.setdefault((student, attack), [])
        known.extend([accuracy] if accuracy not in known else [])

    def predict(self, asked: Sequence[NetworkSpec], attack: str) -> tuple[Floats, Floats]:
        points = list(self.values)
        y = np.array([np.mean([math.asin(math.sqrt(value)) for value in each]) for each in self.values.values()])
        noise = np.diag([NOISE / len(each) for each in self.values.values()])
        if len(points) >= RETUNE * self.tuned_on:
            density = [multivariate_normal(cov=covariance(points, points, each) + noise) for each in LENGTH_SCALES]
            best = int(np.argmax([each.logpdf(y - y.mean()) for each in density]))
            self.length, self.tuned_on = LENGTH_SCALES[best], len(points)
        inverse = np.linalg.inv(covariance(points, points, self.length) + noise)
        cross = covariance([(student, attack) for student in asked], points, self.length)
        variance = PRIOR - np.einsum("ij,jk,ik->i", cross, inverse, cross)
        return y.mean() + cross @ inverse @ (y - y.mean()), np.sqrt(variance)


def critic_of(observed: Sequence[Observed]) -> AccuracyCritic:
    critic = AccuracyCritic()
    for each in observed:
        critic.observe(*each)
    return critic


def assert_same(ours: tuple[Floats, Floats], theirs: tuple[Floats, Floats]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-8)


def test_the_features_of_a_student() -> None:
    spec = NetworkSpec((StageSpec(3, 32), StageSpec(4, 64, downsample=True, robust=True)), StemSpec(16), (1, 8, 8))
    costs = cost(spec)
    expected = [5, math.log2(3), 0, 0, 6, 2, 2, 2, math.log10(costs.params), math.log10(costs.macs)]
    assert student_features(spec) == pytest.approx(expected)


@pytest.mark.parametrize("blocks", [(2, *[1] * 10), (5, 14, 3, 1), (24,)])
def test_predictions_are_those_of_a_dense_gaussian_process(blocks: Sequence[int]) -> None:
    """After each block, one point or many, and across the choices of another length scale."""
    observed, asked = iter(observations(sum(blocks))), students(4, seed=9)
    ours, theirs, lengths = AccuracyCritic(), DenseProcess(), list[float]()
    for count in blocks:
        for _ in range(count):
            each = next(observed)
            ours.observe(*each), theirs.observe(*each)
        for attack in ("fgsm", "pgd", "unseen"):
            assert_same(ours.predict(asked, attack), theirs.predict(asked, attack))
        lengths.append(theirs.length)
    assert len(set(lengths)) > 1 or len(blocks) == 1, "no retuning changed anything"


def test_without_two_points_there_is_nothing_to_predict_from() -> None:
    critic = AccuracyCritic()
    for count, each in enumerate(observations(2)):
        assert (critic.ready, len(critic)) == (False, count)
        with pytest.raises(ValueError, match=f"critic must have observed two students or more to predict, got {count}"):
            critic.predict(students(1), "fgsm")
        critic.observe(*each)
    assert critic.ready
    assert np.isfinite(critic.predict(students(1), "fgsm")).all()


def test_it_knows_what_it_observed_under_the_attack_that_it_was_under() -> None:
    student, attack, accuracy = observations(1)[0]
    critic = critic_of([(student, attack, accuracy)])
    assert critic.knows(student, attack)
    assert not critic.knows(student, "pgd") and not critic.knows(students(2)[1], attack)


def test_a_repeated_accuracy_adds_nothing() -> None:
    observed, asked = observations(6), students(3, seed=9)
    critic = critic_of(observed)
    before, described = critic.predict(asked, "fgsm"), critic.to_list()
    critic.observe(*observed[2])
    assert critic.to_list() == described and len(critic) == 6
    for found in (critic, critic_of([*observed, observed[2]])):
        assert all(np.array_equal(a, b) for a, b in zip(found.predict(asked, "fgsm"), before, strict=True))


def test_a_second_accuracy_halves_the_noise_of_its_point() -> None:
    """Of two points, in closed form: the second training of the first changes y to its mean and the noise to half."""
    (one, attack, accuracy), (other, _, low) = observations(2, attacks=("fgsm",))
    again = accuracy + 0.05
    critic = critic_of([(one, attack, accuracy), (other, attack, low), (one, attack, again)])
    assert len(critic) == 2
    mean, deviation = critic.predict([one], attack)
    angles = [math.asin(math.sqrt(value)) for value in (accuracy, again, low)]
    y = np.array([(angles[0] + angles[1]) / 2, angles[2]])
    candidates = {}
    for length in LENGTH_SCALES:
        cross = covariance([(one, attack)], [(one, attack), (other, attack)], length)[0]
        (a, b), (_, d) = covariance([(one, attack), (other, attack)], [(one, attack), (other, attack)], length)
        a, d = a + NOISE / 2, d + NOISE
        inverse = np.array([[d, -b], [-b, a]]) / (a * d - b * b)
        centred = y - y.mean()
        density = -0.5 * centred @ inverse @ centred - 0.5 * math.log(a * d - b * b)
        spread = math.sqrt(PRIOR - cross @ inverse @ cross)
        candidates[density] = (y.mean() + cross @ inverse @ centred, spread)
    assert (mean[0], deviation[0]) == pytest.approx(candidates[max(candidates)], rel=1e-6)
    single = critic_of([(one, attack, accuracy), (other, attack, low)]).predict([one], attack)[1]
    assert deviation[0] < single[0]


def test_a_second_accuracy_after_a_prediction_counts_too() -> None:
    observed, asked = observations(8), students(3, seed=9)
    student, attack, accuracy = observed[3]
    ours, theirs = critic_of(observed), DenseProcess()
    for each in observed:
        theirs.observe(*each)
    ours.predict(asked, "pgd"), theirs.predict(asked, "pgd")
    ours.observe(student, attack, 0.9 * accuracy), theirs.observe(student, attack, 0.9 * accuracy)
    assert_same(ours.predict(asked, "pgd"), theirs.predict(asked, "pgd"))


def test_attacks_share_the_shape_and_differ_by_an_offset() -> None:
    """Two accuracies under a new attack, 0.2 radians lower, lower all its predictions by about that."""
    observed, offset = observations(40, attacks=("fgsm",)), 0.2
    critic, asked = critic_of(observed), students(20, seed=9)
    unknown = critic.predict(asked, "cw")
    for student, _, accuracy in observed[:2]:
        critic.observe(student, "cw", math.sin(math.asin(math.sqrt(accuracy)) - offset) ** 2)
    (old, _), (new, deviation) = critic.predict(asked, "fgsm"), critic.predict(asked, "cw")
    assert new - old == pytest.approx(-offset, abs=0.04)
    assert np.corrcoef(old, new)[0, 1] > 0.95
    assert abs(unknown[0] - old).max() < 0.05, "without data the attack is the same as the others"
    assert (deviation < 0.6 * unknown[1]).all()


def test_beyond_the_most_points_the_oldest_fifth_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents.critic, "MOST_POINTS", 20)
    observed, asked = observations(23, attacks=("fgsm",)), students(3, seed=9)
    critic = critic_of(observed[:20])
    critic.predict(asked, "fgsm")
    assert len(critic) == 20
    critic.observe(*observed[20])
    assert len(critic) == 17
    assert [critic.knows(student, "fgsm") for student, _, _ in observed[:21]] == [False] * 4 + [True] * 17
    for each in observed[21:]:
        critic.observe(*each)
    theirs = DenseProcess()
    for each in observed[:20]:
        theirs.observe(*each)
    theirs.predict(asked, "fgsm")  # the length scale of 20 points stays until there are 24
    theirs.values = {(student, attack): [accuracy] for student, attack, accuracy in observed[4:]}
    assert_same(critic.predict(asked, "fgsm"), theirs.predict(asked, "fgsm"))


def copied(critic: AccuracyCritic) -> AccuracyCritic:
    return AccuracyCritic.from_list(json.loads(json.dumps(critic.to_list(), allow_nan=False)))


def test_a_critic_read_back_goes_on_to_the_bit() -> None:
    """Copied after every event: between blocks, with points that are in no fit yet, after a second accuracy."""
    observed, asked = observations(30), students(4, seed=9)
    original, copies = AccuracyCritic(), [copied(AccuracyCritic())]
    for index, (student, attack, accuracy) in enumerate(observed):
        for each in (original, *copies):
            each.observe(student, attack, accuracy)
            if index == 17:
                each.observe(*observed[3][:2], 0.9 * observed[3][2])
        copies = [copies[0], copies[-1], copied(original)]
        if index % 4 and original.ready:
            expected = original.predict(asked, "pgd")
            for each in copies:
                assert all(np.array_equal(a, b) for a, b in zip(each.predict(asked, "pgd"), expected, strict=True))
                assert each.to_list() == original.to_list()
            copies[-1] = copied(original)
    assert len(original.to_list()[2]) > 1, "nothing was appended after the last fit"


def described() -> list[Any]:
    critic = critic_of(observations(4))
    critic.predict(students(1), "fgsm")
    found: list[Any] = json.loads(json.dumps(critic.to_list()))
    return found


def changed(change: Callable[[list[Any]], Any]) -> Callable[[], Any]:
    def make() -> Any:
        value = described()
        change(value)
        return value

    return make


UNREADABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: None, "critic must be .*got None"),
    "an object": (lambda: {}, r"critic must be .*got \{\}"),
    "too short": (lambda: described()[:3], "critic must be "),
    "other length scale": (changed(lambda v: v.__setitem__(0, 3.0)), r"critic must be .*got \[3.0"),
    "points tuned on": (changed(lambda v: v.__setitem__(1, -1)), "points tuned on must .*got -1"),
    "no network": (changed(lambda v: v[3][0].__setitem__(0, {})), "network must have the fields"),
    "bad network": (changed(lambda v: v[3][0][0].update(classes=1)), "classes must .*got 1"),
    "short point": (changed(lambda v: v[3][0].pop()), "point must be"),
    "accuracy above 1": (changed(lambda v: v[3][0].__setitem__(2, [1.5])), "accuracy must .*got 1.5"),
    "negative accuracy": (changed(lambda v: v[3][0].__setitem__(2, [0.5, -0.1])), "accuracy must .*got -0.1"),
    "no number": (changed(lambda v: v[3][0].__setitem__(2, ["high"])), "accuracy must .*got 'high'"),
    "large block": (changed(lambda v: v.__setitem__(2, [5])), "block must .*from 1 to 4, got 5"),
    "blocks beyond the points": (changed(lambda v: v.__setitem__(2, [3, 2])), "block must .*from 1 to 1, got 2"),
    "empty block": (changed(lambda v: v.__setitem__(2, [0])), "block must .*got 0"),
    "half a block": (changed(lambda v: v.__setitem__(2, [1.5])), "block must .*got 1.5"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_is_no_critic_is_named(case: str) -> None:
    make, message = UNREADABLE[case]
    with pytest.raises(ValueError, match=message):
        AccuracyCritic.from_list(make())


NOT_CAUGHT: dict[str, Callable[[], Any]] = {
    "no accuracies": changed(lambda v: v[3][0].__setitem__(2, [])),
    "no accuracies, not fitted": changed(lambda v: (v[3][0].__setitem__(2, []), v.__setitem__(2, []))),
    "accuracies no list": changed(lambda v: v[3][0].__setitem__(2, 0.5)),
    "points no list": changed(lambda v: v.__setitem__(3, 5)),
    "blocks no list": changed(lambda v: v.__setitem__(2, None)),
    "attack no name": changed(lambda v: v[3][0].__setitem__(1, 5)),
}


@pytest.mark.parametrize("case", NOT_CAUGHT)
def test_what_is_no_critic_is_a_value_error(case: str) -> None:
    with pytest.raises(ValueError, match="critic"):
        AccuracyCritic.from_list(NOT_CAUGHT[case]())


def test_a_deviation_is_small_near_data_and_the_prior_far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents.critic, "LENGTH_SCALES", (1.5,))  # at the longest, no student is far away
    observed = observations(20, attacks=("fgsm",))
    critic, known = critic_of(observed), [student for student, _, _ in observed]
    huge = NetworkSpec((StageSpec(500, 16_000, robust=True),) * 3, StemSpec(16), (1, 8, 8))
    near = critic.predict(known, "fgsm")[1]
    assert (near < math.sqrt(NOISE)).all()
    assert near.max() < critic.predict(students(10, seed=9), "fgsm")[1].max() < math.sqrt(PRIOR)
    distances = [np.linalg.norm(np.subtract(student_features(huge), student_features(each))) for each in known]
    assert min(distances) > 5 * 1.5, "not far enough for the kernel to have vanished"
    mean, far = critic.predict([huge], "unseen")
    assert far == pytest.approx(math.sqrt(PRIOR), rel=1e-4)
    angles = [math.asin(math.sqrt(accuracy)) for _, _, accuracy in observed]
    assert mean == pytest.approx(np.mean(angles), abs=1e-3)


SOME = observations(9)


@settings(deadline=None, max_examples=25)
@given(st.permutations([*SOME, *((student, attack, accuracy / 2) for student, attack, accuracy in SOME[:3])]))
def test_the_order_of_observations_does_not_matter(order: list[Observed]) -> None:
    asked = students(3, seed=9)
    assert_same(critic_of(order).predict(asked, "pgd"), critic_of(sorted(order, key=str)).predict(asked, "pgd"))
