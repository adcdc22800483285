"""The tabular space: every student of every student is a row, and all three ways to compress agree."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcnas_env.architecture import NetworkSpec, StageSpec, named_network
from rcnas_env.compression import compress, kept_depth, kept_planes
from rcnas_env.tabular.space import MOST_NETWORKS, StudentSpace, direct_stage_students, first_generation, stage_students

DIGITS_TEACHER = named_network("WRN-16-1", (1, 8, 8), 10)
assert isinstance(DIGITS_TEACHER, NetworkSpec)
SPACE = StudentSpace(DIGITS_TEACHER)
ROWS = st.integers(0, len(SPACE) - 1)
SHARES = st.lists(st.floats(0, 1), min_size=6, max_size=6)
SWITCHES = st.lists(st.booleans(), min_size=6, max_size=6)
EDGES = (0.0, np.nextafter(0.25, 0), 0.25, np.nextafter(0.75, 0), 0.75, 1.0)
"""Shares at which rounding turns, and the ends of the range."""


def parts(shares: list[float], switches: list[bool]) -> tuple[Any, Any]:
    return np.reshape(shares, (3, 2)).astype(float), np.reshape(switches, (3, 2))


def three_ways(row: int, keep: Any, switch: Any) -> list[int]:
    """The student's row by the batch, by the single step, and by the environment's own compression."""
    batch = SPACE.compress(np.array([row]), keep[None], switch[None].astype(np.int64))
    spec = compress(SPACE.network(row), {"keep": keep, "switch": switch})
    return [int(batch[0]), SPACE.student(row, keep, switch), SPACE.row(spec)]


@settings(max_examples=300, deadline=None)
@given(ROWS, SHARES, SWITCHES)
def test_every_student_of_every_row_is_a_row_and_all_ways_agree(
    row: int, shares: list[float], switches: list[bool]
) -> None:
    first, second, third = three_ways(row, *parts(shares, switches))
    assert first == second == third
    assert 0 <= first < len(SPACE)


@settings(max_examples=200, deadline=None)
@given(ROWS, st.lists(st.sampled_from(EDGES), min_size=6, max_size=6), SWITCHES)
def test_all_ways_round_alike_where_rounding_turns(row: int, shares: list[float], switches: list[bool]) -> None:
    assert len(set(three_ways(row, *parts(shares, switches)))) == 1


def test_a_batch_of_float32_shares_is_compressed_as_single_steps_are() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(len(SPACE), size=500)
    keep = rng.random((500, 3, 2), dtype=np.float32)
    switch = rng.integers(0, 2, (500, 3, 2), dtype=np.int8)
    found = SPACE.compress(rows, keep, switch)
    pairs = zip(rows.tolist(), keep, switch, strict=True)
    expected = [SPACE.row(compress(SPACE.network(row), {"keep": k, "switch": s})) for row, k, s in pairs]
    assert found.tolist() == expected
    assert len(set(expected)) > 300


def test_rows_and_networks_are_each_other_s_inverse() -> None:
    fresh = StudentSpace(SPACE.teacher)  # that remembers no network
    networks = [fresh.network(row) for row in range(len(fresh))]
    assert len(set(networks)) == len(fresh)
    asked = StudentSpace(SPACE.teacher)
    for row in range(0, len(fresh), 7):
        copy = replace(networks[row])
        assert asked.row(copy) == asked.row(copy) == row
        assert fresh.network(row) is networks[row]
    assert networks[SPACE.row(SPACE.teacher)] == SPACE.teacher


def test_stages_are_those_of_the_networks() -> None:
    assert SPACE.stages.shape == (len(SPACE), 3, 4)
    for row in range(0, len(SPACE), 11):
        stages = [[s.planes, s.depth, s.downsample, s.robust] for s in SPACE.network(row).stages]
        assert SPACE.stages[row].tolist() == stages


def grid_students(stage: StageSpec) -> set[StageSpec]:
    """What a fine grid of actions makes of a stage; which shares are kept does not depend on the other parts."""
    shares = np.linspace(0, 1, 241).tolist()
    depths = {kept_depth(stage.depth, share) for share in shares}
    return {
        StageSpec(depth, planes, downsample, robust)
        for robust in (False, True)
        for planes in {kept_planes(stage.planes, share, robust) for share in shares}
        for depth, downsample in itertools.product(depths, (False, True))
    }


@pytest.mark.parametrize("row", [SPACE.row(DIGITS_TEACHER), 0, 4_321, len(SPACE) - 1])
def test_the_first_generation_is_what_a_fine_grid_of_actions_makes(row: int) -> None:
    found = first_generation(SPACE, row)
    assert (np.diff(found) > 0).all()  # sorted, none twice
    choices = [grid_students(stage) for stage in SPACE.network(row).stages]
    expected = {SPACE.row(replace(SPACE.teacher, stages=stages)) for stages in itertools.product(*choices)}
    assert set(found.tolist()) == expected


@pytest.mark.parametrize("planes", [8, 16, 24, 56, 64, 72, 88, 104, 128])
def test_a_stage_s_choices_are_closed_under_compression(planes: int) -> None:
    choices = stage_students(StageSpec(2, planes, True, False))
    assert StageSpec(2, planes, True, False) in choices
    for stage in choices:
        assert grid_students(stage) <= set(choices), stage


@pytest.mark.parametrize("planes", [8, 16, 24, 56, 64, 72, 88, 104, 128])
def test_one_action_makes_no_other_stages_than_those_counted(planes: int) -> None:
    stage = StageSpec(3, planes, True, False)
    assert direct_stage_students(stage) == grid_students(stage)


def test_a_space_s_order_does_not_change() -> None:
    """Rows are what a table's arrays are indexed by."""
    assert [list(stage_students(stage)) for stage in SPACE.teacher.stages] == [list(c) for c in SPACE.choices]
    for choices in SPACE.choices:
        order = [(s.planes, s.depth, s.downsample, s.robust) for s in choices]
        assert order == sorted(order)
    last = SPACE.network(len(SPACE) - 1).stages
    assert [SPACE.network(0).stages, last] == [tuple(c[end] for c in SPACE.choices) for end in (0, -1)]
    assert SPACE.network(1).stages[:2] == SPACE.network(0).stages[:2]  # the last stage's choice changes first


@pytest.mark.parametrize(
    "network",
    [
        named_network("WRN-22-1", (1, 8, 8), 10),  # deeper
        named_network("WRN-16-2", (1, 8, 8), 10),  # wider
        named_network("WRN-16-1", (3, 8, 8), 10),  # of other images
        named_network("WRN-16-1", (1, 8, 8), 9),  # of other classes
        NetworkSpec(DIGITS_TEACHER.stages[:2], DIGITS_TEACHER.stem, (1, 8, 8)),
    ],
    ids=["deeper", "wider", "other images", "other classes", "two stages"],
)
def test_a_network_outside_the_space_has_no_row(network: Any) -> None:
    with pytest.raises(KeyError, match="network must be a student of .*, got .*stages"):
        SPACE.row(network)


def test_teachers_that_make_no_table_are_refused() -> None:
    with pytest.raises(ValueError, match="teacher's planes must be multiples of 8, got .*12"):
        StudentSpace(NetworkSpec((StageSpec(1, 12),) * 3))
    with pytest.raises(ValueError, match=f"teacher must have at most {MOST_NETWORKS:,} students of students, got "):
        StudentSpace(NetworkSpec((StageSpec(4, 160),) * 3))
