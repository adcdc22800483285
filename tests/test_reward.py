"""Eq. 4 against values worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcnas_env.cost import Cost, cost
from rcnas_env.reward import PENALTIES, RewardTerms, depends_on_accuracy, linear_annealing, reward_terms
from rcnas_env.task import resolve_teacher

TEACHER = Cost(params=1_000, macs=100)
SMALLER = Cost(params=250, macs=40)  # C = 0.75, C(2 − C) = 0.9375
LARGER = Cost(params=1_500, macs=40)  # C = −0.5, C(2 − C) = −1.25
FITS, TOO_DEAR = 40, 39  # budgets in MACs; a student that costs all of its budget is within it

ACCURACY = st.floats(0, 1)
ANNEALING = st.just(0.0) | st.floats(1e-3, 1)  # below that, two accuracies' rewards may round to one
STUDENTS = st.builds(Cost, params=st.integers(1, 3_000), macs=st.integers(0, 200))


def terms(
    student: Cost, budget: float, annealing: float, penalty: str = "annealed", compression_emphasis: float = 1.0
) -> RewardTerms:
    """With accuracies 0.3 and 0.5: a ratio of 0.6."""
    return reward_terms(
        student, TEACHER, budget, 0.3, 0.5, annealing, penalty, compression_emphasis=compression_emphasis
    )


@pytest.mark.parametrize(
    ("student", "budget", "annealing", "penalty", "expected"),
    [
        (SMALLER, FITS, 1.0, "annealed", 0.5625),  # 0.9375 · 0.6, whatever ε and the penalty
        (SMALLER, FITS, 0.5, "annealed", 0.5625),
        (SMALLER, FITS, 0.0, "annealed", 0.5625),
        (SMALLER, FITS, 0.5, "hard", 0.5625),
        (SMALLER, TOO_DEAR, 1.0, "annealed", 0.5625),  # 1 · (0.5625 + 1) − 1
        (SMALLER, TOO_DEAR, 0.5, "annealed", -0.21875),  # 0.5 · 1.5625 − 1
        (SMALLER, TOO_DEAR, 0.0, "annealed", -1.0),
        (SMALLER, TOO_DEAR, 1.0, "hard", -1.0),
        (SMALLER, TOO_DEAR, 0.0, "hard", -1.0),
        (LARGER, FITS, 1.0, "annealed", -0.75),  # −1.25 · 0.6
        (LARGER, TOO_DEAR, 0.5, "annealed", -0.875),  # 0.5 · (−0.75 + 1) − 1
        (TEACHER, 100, 1.0, "annealed", 0.0),  # C = 0
    ],
)
def test_equation_4_by_hand(student: Cost, budget: float, annealing: float, penalty: str, expected: float) -> None:
    assert terms(student, budget, annealing, penalty).reward == pytest.approx(expected, abs=1e-12)


def test_every_term_is_named() -> None:
    found = terms(SMALLER, TOO_DEAR, 0.5)
    assert found.to_dict() == {
        "compression": 0.75,
        "compression_weight": 0.9375,
        "accuracy_weight": 0.9375,
        "accuracy_ratio": 0.6,
        "macs": 40,
        "budget": 39,
        "within_budget": False,
        "annealing": 0.5,
        "reward": pytest.approx(-0.21875),
    }
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()


def test_compression_of_a_larger_student_is_negative() -> None:
    found = terms(LARGER, FITS, 1.0)
    assert (found.compression, found.compression_weight) == (-0.5, -1.25)


@given(STUDENTS)
def test_the_weight_peaks_where_nothing_is_left(student: Cost) -> None:
    # C(2 − C) = 1 − (1 − C)², and 1 − C is the share of parameters that is left
    weight = terms(student, FITS, 1.0).compression_weight
    assert weight == pytest.approx(1 - (student.params / TEACHER.params) ** 2, abs=1e-12)
    assert weight < 1


@pytest.mark.parametrize(
    ("student", "budget", "annealing", "emphasis", "weight", "expected"),
    [
        (SMALLER, FITS, 1.0, 0.0, 1.0, 0.6),  # the ratio alone, whatever is left of the parameters
        (LARGER, FITS, 1.0, 0.0, 1.0, 0.6),
        (SMALLER, FITS, 0.0, 0.5, 0.96875, 0.58125),  # 0.5 + 0.5 · 0.9375
        (LARGER, FITS, 0.0, 0.5, -0.125, -0.075),  # 0.5 − 0.5 · 1.25
        (TEACHER, 100, 0.0, 0.25, 0.75, 0.45),  # C = 0
        (SMALLER, TOO_DEAR, 0.5, 0.0, 1.0, -0.2),  # 0.5 · 1.6 − 1
        (SMALLER, TOO_DEAR, 0.0, 0.0, 1.0, -1.0),  # the budget holds at every λ
    ],
)
def test_the_compression_emphasis_by_hand(
    student: Cost, budget: float, annealing: float, emphasis: float, weight: float, expected: float
) -> None:
    found = terms(student, budget, annealing, compression_emphasis=emphasis)
    assert (found.accuracy_weight, found.reward) == pytest.approx((weight, expected), abs=1e-12)
    assert found.compression_weight == terms(student, budget, annealing).compression_weight


@given(STUDENTS, st.integers(1, 200), ANNEALING, st.sampled_from(PENALTIES), ACCURACY, ACCURACY)
def test_full_emphasis_is_equation_4_to_the_bit(
    student: Cost, budget: int, annealing: float, penalty: str, ours: float, teachers: float
) -> None:
    found = reward_terms(student, TEACHER, budget, ours, teachers, annealing, penalty, compression_emphasis=1.0)
    compression = 1 - student.params / TEACHER.params
    product = compression * (2 - compression) * (ours / max(teachers, 1 / 256))
    over = annealing * (product + 1) - 1 if penalty == "annealed" and annealing > 0 else -1.0
    assert found.reward == (product if student.macs <= budget else over)
    assert found == reward_terms(student, TEACHER, budget, ours, teachers, annealing, penalty)


@given(STUDENTS, st.floats(0, 1))
def test_the_emphasis_times_the_squared_share_of_parameters_is_lost(student: Cost, emphasis: float) -> None:
    found = terms(student, 200, 0.0, compression_emphasis=emphasis)
    share = student.params / TEACHER.params
    assert found.accuracy_weight == pytest.approx(1 - emphasis * share**2, abs=1e-12)
    assert found.reward == pytest.approx(0.6 * (1 - emphasis * share**2), abs=1e-12)


def test_where_the_parameters_are_saved_decides_at_full_emphasis_and_not_at_none() -> None:
    """The figures of docs/paper-notes.md: half the planes in one stage of WRN-28-10, at one accuracy and budget."""
    teacher = resolve_teacher("WRN-28-10", "digits")
    whole, found = cost(teacher), {}
    for thin in (0, 2):
        stages = [replace(stage, planes=stage.planes // (1 + (i == thin))) for i, stage in enumerate(teacher.stages)]
        student = cost(replace(teacher, stages=tuple(stages)))
        assert student.macs / whole.macs == pytest.approx(0.75, abs=0.005)
        found[thin] = [
            reward_terms(student, whole, whole.macs, 0.4, 0.4, 0.0, compression_emphasis=emphasis).reward
            for emphasis in (1.0, 0.0)
        ]
    assert found == {0: pytest.approx([0.08, 1.0], abs=0.005), 2: pytest.approx([0.81, 1.0], abs=0.005)}


@pytest.mark.parametrize("teacher_accuracy", [0.0, 1 / 512])
@pytest.mark.parametrize(("floor", "expected"), [(1 / 256, 1.875), (1 / 64, 0.46875)])
def test_a_teacher_with_none_right_counts_as_one_with_one_right(
    teacher_accuracy: float, floor: float, expected: float
) -> None:
    found = reward_terms(SMALLER, TEACHER, FITS, 1 / 128, teacher_accuracy, 1.0, smallest_accuracy=floor)
    assert found.reward == pytest.approx(expected)  # 0.9375 · (1/128) / floor


def test_the_floor_leaves_other_teachers_alone() -> None:
    assert reward_terms(SMALLER, TEACHER, FITS, 0.3, 0.5, 1.0, smallest_accuracy=0.5) == terms(SMALLER, FITS, 1.0)


@pytest.mark.parametrize(
    ("budget", "annealing", "penalty", "expected"),
    [
        (FITS, 0.0, "annealed", True),
        (FITS, 0.0, "hard", True),
        (TOO_DEAR, 1e-3, "annealed", True),
        (TOO_DEAR, 0.0, "annealed", False),
        (TOO_DEAR, 1.0, "hard", False),
    ],
)
def test_when_the_accuracy_matters(budget: float, annealing: float, penalty: str, expected: bool) -> None:
    assert depends_on_accuracy(SMALLER.macs, budget, annealing, penalty) is expected


@given(STUDENTS, st.integers(1, 200), ANNEALING, st.sampled_from(PENALTIES), ACCURACY, ACCURACY)
def test_depends_on_accuracy_tells_whether_the_reward_does(
    student: Cost, budget: int, annealing: float, penalty: str, one: float, other: float
) -> None:
    def value(accuracy: float | None) -> float:
        return reward_terms(student, TEACHER, budget, accuracy, 0.5, annealing, penalty).reward

    if not depends_on_accuracy(student.macs, budget, annealing, penalty):
        assert value(one) == value(other) == value(None)
    elif student.params != TEACHER.params and abs(one - other) > 1e-6:  # C = 0 makes any accuracy worthless
        assert value(one) != value(other)


@pytest.mark.parametrize(("budget", "annealing", "penalty"), [(FITS, 0.0, "hard"), (TOO_DEAR, 0.1, "annealed")])
def test_an_accuracy_that_is_needed_must_be_given(budget: float, annealing: float, penalty: str) -> None:
    with pytest.raises(ValueError, match="student_accuracy must be a number .* got None"):
        reward_terms(SMALLER, TEACHER, budget, None, 0.5, annealing, penalty)


@pytest.mark.parametrize("annealing", [-0.1, 1.1, float("nan"), None, True])
def test_bad_annealing_is_named(annealing: float) -> None:
    with pytest.raises(ValueError, match="annealing must be a finite number, at least 0 and at most 1, got"):
        terms(SMALLER, FITS, annealing)


@pytest.mark.parametrize("emphasis", [-0.1, 1.1, float("nan"), None, True])
def test_a_bad_compression_emphasis_is_named(emphasis: float) -> None:
    with pytest.raises(ValueError, match="compression_emphasis must be a finite number, at least 0 and at most 1, got"):
        terms(SMALLER, FITS, 1.0, compression_emphasis=emphasis)


def test_an_unknown_penalty_is_named() -> None:
    with pytest.raises(ValueError, match="penalty must be one of 'annealed', 'hard', got 'soft'"):
        terms(SMALLER, FITS, 1.0, "soft")


@pytest.mark.parametrize(
    ("step", "steps", "expected"),
    [(0, 500, 1.0), (125, 500, 0.75), (499, 500, 0.002), (500, 500, 0.0), (9_999, 500, 0.0), (0, 0, 0.0), (3, 0, 0.0)],
)
def test_annealing_is_linear_and_then_zero(step: int, steps: int, expected: float) -> None:
    assert linear_annealing(step, steps) == pytest.approx(expected)
