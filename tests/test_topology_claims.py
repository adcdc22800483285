"""Verdicts on what students look like: which searches are compared, in what, and when it says nothing."""

from __future__ import annotations

import pytest
from scipy import stats

from experiments.claim_list import (
    CLAIMS,
    KEEPS_FIRST,
    LARGER_SHRINKS,
    LAST_WIDTH,
    SHRINKS_LAST,
    THEOREM,
    WIDTH_FOR_DEPTH,
    Claim,
)
from experiments.theory_claims import INEQUALITIES, judge_theory
from experiments.topology_claims import PAIRS, Students, judge_topology
from rcnas_env.architecture import NetworkSpec, StageSpec

PLANNED = {KEEPS_FIRST: 16, SHRINKS_LAST: 8, LARGER_SHRINKS: 10, LAST_WIDTH: 2, WIDTH_FOR_DEPTH: 2}


def claim(identity: str) -> Claim:
    return next(each for each in CLAIMS if each.id == identity)


def network(*stages: tuple[int, int]) -> NetworkSpec:
    return NetworkSpec(tuple(StageSpec(depth, planes) for depth, planes in stages), input=(1, 8, 8))


TEACHER = network((4, 16), (4, 32), (4, 64))


def searches(**students: NetworkSpec) -> Students:
    """Students by "place_group_attack", with underscores for the place's dashes."""
    return {
        f"rc-nas_{name.replace('tiny_imagenet', 'tiny-imagenet')}_0": (TEACHER, each) for name, each in students.items()
    }


def test_each_claim_is_there_with_its_comparisons() -> None:
    assert {identity: len(pairs) for identity, pairs in PAIRS.items()} == PLANNED
    assert PLANNED.keys() <= {each.id for each in CLAIMS}


def test_shares_of_stages_are_compared_between_attacks_a_task_counting_once() -> None:
    clean, attacked = network((1, 16), (2, 16), (4, 64)), network((2, 16), (4, 16), (4, 32))
    found = searches(
        cifar10_5G_clean=clean,
        cifar10_5G_autoattack=attacked,
        tiny_imagenet_20G_clean=clean,
        tiny_imagenet_20G_autoattack=network((3, 16), (2, 16), (4, 64)),
        cifar100_10G_clean=clean,  # without its other half
    )
    first = judge_topology(claim(KEEPS_FIRST), found)
    # stage 1: +25 and +50 points, stage 2: +25 and 0
    assert first.tally is not None and first.outcome == "not confirmed" and "2 tasks confirm nothing" in first.evidence
    assert (first.tally.won, first.tally.lost, first.tally.measured) == (3, 0, 4)
    assert (first.tally.mean, first.tally.low, first.tally.high) == (25, 25, 25)
    assert "4 of 16 comparisons measured (20G tiny-imagenet; 5G cifar10)" in first.evidence
    last = judge_topology(claim(SHRINKS_LAST), found)
    assert last.tally is not None and last.outcome == "not confirmed"  # +50 and 0: the interval holds 0
    assert (last.tally.won, last.tally.lost, last.tally.mean) == (1, 0, 25)
    assert (last.tally.low, last.tally.high) == pytest.approx(stats.t.interval(0.95, 1, 25, stats.sem([50, 0])))


def test_losses_are_named() -> None:
    wide, narrow = network((4, 16), (4, 32), (4, 64)), network((4, 16), (4, 32), (4, 16))
    found = searches(
        cifar10_5G_autoattack=narrow, cifar10_10G_autoattack=wide,
        cifar100_5G_autoattack=narrow, cifar100_10G_autoattack=wide,
    )  # fmt: skip
    lost = judge_topology(claim(LAST_WIDTH), found)
    assert lost.outcome == "not confirmed" and "5G to 10G, cifar10, autoattack (-75.0)" in lost.evidence
    ratio = judge_topology(claim(WIDTH_FOR_DEPTH), found)
    assert ratio.tally is not None and ratio.tally.mean == pytest.approx(100 * (64 / 112 - 1))


def test_a_teacher_without_depth_to_lose_is_compared_with_none() -> None:
    flat = network((1, 16), (1, 32), (1, 64))
    found = {
        f"rc-nas_{place}_{group}_{attack}_0": (flat if group == "5G" else TEACHER, flat)
        for place in ("cifar10", "cifar100")
        for group in ("5G", "10G", "20G")
        for attack in ("clean", "autoattack")
    }
    verdict = judge_topology(claim(LARGER_SHRINKS), {n: each for n, each in found.items() if "20G" not in n})
    assert verdict.outcome == "untested" and "one block a stage" in verdict.evidence
    kept = {"5G": TEACHER, "10G": network((3, 16), (3, 32), (3, 64)), "20G": network((1, 16), (1, 32), (1, 64))}
    deep = {name: (TEACHER, kept[name.split("_")[2]]) for name in found}
    assert judge_topology(claim(LARGER_SHRINKS), deep).outcome == "confirmed"
    few = {name: each for name, each in deep.items() if "cifar100" not in name}
    assert judge_topology(claim(LARGER_SHRINKS), few).outcome == "not confirmed"  # four tasks


@pytest.mark.parametrize("students", [None, {}, searches(cifar10_5G_clean=TEACHER, cifar10_5G_autoattack=TEACHER)])
def test_fewer_than_two_tasks_test_nothing(students: Students | None) -> None:
    assert judge_topology(claim(KEEPS_FIRST), students).outcome == "untested"


@pytest.mark.parametrize(
    ("lows", "outcome"), [((0.6, 0.55), "confirmed"), ((0.6, 0.5), "not confirmed"), ((0.0, 0.9), "not confirmed")]
)
def test_an_inequality_must_hold_on_every_compressed_network(lows: tuple[float, ...], outcome: str) -> None:
    names = ("full", "width 0.5", "edges 0.5")
    findings = [
        {"claim": INEQUALITIES[THEOREM], "network": name, "held": 9, "seeds": 10, "low": low}
        for name, low in zip(names, (0.0, *lows), strict=True)
    ]
    found = judge_theory(claim(THEOREM), findings)
    assert found.outcome == outcome and "of 10 seeds" in found.evidence and "width 0.5 9, edges 0.5 9" in found.evidence
    assert judge_theory(claim(THEOREM), None).outcome == "untested"
    with pytest.raises(ValueError, match="must have .Theorem 3.2"):
        judge_theory(claim(THEOREM), [{"claim": "another", "network": "width 0.5"}])
