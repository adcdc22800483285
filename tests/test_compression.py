"""Teacher and action → student: always a valid network, rounded as documented; bad actions are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rcnas_env.architecture import NetworkSpec, StageSpec, named_network
from rcnas_env.compression import action_space, compress, compress_stage, round_half_up, validate_action
from rcnas_env.cost import cost

STAGES = st.builds(StageSpec, depth=st.integers(1, 30), planes=st.integers(1, 16_384), downsample=st.booleans())
ROBUST = st.builds(StageSpec, depth=st.integers(1, 30), planes=st.integers(16, 999), robust=st.just(True))
NAMES = ("WRN-28-10", "WRN-70-16", "WRN-10-1", "RobustResNet-A1")
TEACHERS = st.sampled_from(NAMES).map(named_network) | st.builds(
    NetworkSpec,
    stages=st.tuples(*(STAGES | ROBUST,) * 3),
    input=st.sampled_from([(1, 8, 8), (3, 32, 32)]),
)
ACTIONS = st.fixed_dictionaries(
    {
        "keep": arrays(np.float32, (3, 2), elements=st.floats(0, 1, width=32)),
        "switch": arrays(np.int8, (3, 2), elements=st.integers(0, 1)),
    }
)


def action(width: float = 1.0, depth: float = 1.0, downsample: int = 0, robust: int = 0) -> dict[str, Any]:
    """The same for every stage."""
    return {"keep": np.array([[width, depth]] * 3), "switch": np.array([[downsample, robust]] * 3)}


@settings(deadline=None)
@given(TEACHERS, ACTIONS)
def test_every_action_gives_a_network_that_can_be_built(teacher: NetworkSpec, given_action: dict[str, Any]) -> None:
    assert action_space().contains(given_action)
    student = compress(teacher, given_action)
    assert NetworkSpec.from_json(student.to_json()) == student
    assert (student.input, student.classes, student.stem) == (teacher.input, teacher.classes, teacher.stem)
    assert cost(student).params > 0
    rows = zip(student.stages, teacher.stages, given_action["keep"], given_action["switch"], strict=True)
    for ours, theirs, (width, depth), (downsample, robust) in rows:
        multiple = 8 if theirs.planes < 64 else 16
        least = 16 if robust else multiple
        assert ours.planes % multiple == 0
        assert ours.planes >= least
        assert ours.planes == least or abs(ours.planes - width * theirs.planes) <= multiple / 2 + 1e-6
        assert ours.depth >= 1
        assert ours.depth == 1 or abs(ours.depth - depth * theirs.depth) <= 0.5 + 1e-6
        assert (ours.downsample, ours.robust) == (bool(downsample), bool(robust))


@pytest.mark.parametrize("name", NAMES)
def test_keeping_all_gives_the_teacher(name: str) -> None:
    teacher = named_network(name)
    switch = [[stage.downsample, stage.robust] for stage in teacher.stages]
    assert compress(teacher, {"keep": np.ones((3, 2)), "switch": np.array(switch, np.int8)}) == teacher


def test_keeping_nothing_leaves_the_smallest_network() -> None:
    student = compress(named_network("WRN-28-10"), action(0.0, 0.0))
    assert [(s.planes, s.depth) for s in student.stages] == [(16, 1)] * 3
    narrow = compress(named_network("WRN-28-2"), action(0.0, 0.0))  # 32, 64, 128 planes
    assert [(s.planes, s.depth) for s in narrow.stages] == [(8, 1), (16, 1), (16, 1)]
    robust = compress(named_network("WRN-28-1"), action(0.0, 0.0, robust=1))  # 16, 32, 64 planes
    assert [(s.planes, s.depth) for s in robust.stages] == [(16, 1)] * 3


def test_columns_mean_width_depth_downsample_robust() -> None:
    student = compress(
        named_network("WRN-28-10"),  # 4 blocks of 160, 320, 640 planes
        {"keep": [[0.5, 1.0], [1.0, 0.25], [0.1, 0.75]], "switch": [[1, 0], [0, 1], [0, 0]]},
    )
    assert student.stages == (
        StageSpec(depth=4, planes=80, downsample=True),
        StageSpec(depth=1, planes=320, robust=True),
        StageSpec(depth=3, planes=64),
    )


@pytest.mark.parametrize(("value", "expected"), [(0.5, 1), (1.5, 2), (2.5, 3), (2.49, 2), (0.0, 0), (7.0, 7)])
def test_halves_round_up(value: float, expected: int) -> None:
    assert round_half_up(value) == expected


def test_halves_round_up_in_both_dimensions() -> None:
    stage = compress_stage(StageSpec(depth=5, planes=160), 0.25, 0.5, downsample=False, robust=False)
    assert (stage.planes, stage.depth) == (48, 3)  # 40 / 16 = 2.5; 5 · 0.5 = 2.5


def test_the_multiple_changes_at_64_planes() -> None:
    def planes(teacher: int) -> int:
        return compress_stage(StageSpec(1, teacher), 0.37, 1.0, downsample=False, robust=False).planes

    assert planes(63) == 24  # 23.31 → 3 · 8
    assert planes(64) == 16  # 23.68 → 1 · 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": np.full((3, 2), np.nan)}, r"action\['keep'\] must be numbers in \[0, 1\], got \[\[nan"),
        ({"keep": np.full((3, 2), 1.01)}, r"action\['keep'\] must be numbers in \[0, 1\], got \[\[1.01"),
        ({"keep": np.full((3, 2), -0.01)}, r"action\['keep'\] must be numbers in \[0, 1\]"),
        ({"keep": np.full((3, 2), np.inf)}, r"action\['keep'\] must be numbers in \[0, 1\]"),
        ({"keep": np.ones((2, 3))}, r"action\['keep'\] must have shape \(3, 2\), got \(2, 3\)"),
        ({"keep": np.ones((4, 2))}, r"action\['keep'\] must have shape \(3, 2\), got \(4, 2\)"),
        ({"keep": 0.5}, r"action\['keep'\] must have shape \(3, 2\), got \(\)"),
        ({"keep": None}, r"action\['keep'\] must be numbers in \[0, 1\], got None"),
        ({"keep": "all"}, r"action\['keep'\] must be numbers in \[0, 1\], got 'all'"),
        ({"keep": [["0.5", "0.5"]] * 3}, r"action\['keep'\] must be numbers in \[0, 1\], got \[\['0.5'"),
        ({"keep": [[None, 0.5]] * 3}, r"action\['keep'\] must be numbers in \[0, 1\], got \[\[None"),
        ({"keep": [[0.5], [0.5, 0.5], []]}, r"action\['keep'\] must be numbers in \[0, 1\], got \[\[0.5\]"),
        ({"keep": [[10**400, 0.5]] * 3}, r"action\['keep'\] must be numbers in \[0, 1\], got"),
        ({"keep": np.full((3, 2), 0.5 + 1j)}, r"action\['keep'\] must be numbers in \[0, 1\], got"),
        ({"switch": np.full((3, 2), 2)}, r"action\['switch'\] must be zeros and ones, got \[\[2"),
        ({"switch": np.full((3, 2), 0.5)}, r"action\['switch'\] must be zeros and ones"),
        ({"switch": np.full((3, 2), np.nan)}, r"action\['switch'\] must be zeros and ones"),
        ({"switch": np.zeros(6)}, r"action\['switch'\] must have shape \(3, 2\), got \(6,\)"),
        ({"switch": None}, r"action\['switch'\] must be zeros and ones, got None"),
        ({"switch": [["on", "off"]] * 3}, r"action\['switch'\] must be zeros and ones, got \[\['on'"),
        ({"blocks": 3}, r'action must be \{"keep": …, "switch": …\}, got \[\'blocks\', \'keep\', \'switch\'\]'),
    ],
)
def test_bad_actions_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compress(named_network("WRN-10-2"), action() | changes)


@pytest.mark.parametrize("part", ["keep", "switch"])
def test_a_missing_part_is_named(part: str) -> None:
    incomplete = {name: value for name, value in action().items() if name != part}
    with pytest.raises(ValueError, match=r'action must be \{"keep": …, "switch": …\}, got'):
        compress(named_network("WRN-10-2"), incomplete)


@pytest.mark.parametrize("bad", [None, "keep", 3, np.ones(12), [np.ones((3, 2))] * 2])
def test_what_is_no_action_is_named(bad: object) -> None:
    with pytest.raises(ValueError, match=r'action must be \{"keep": …, "switch": …\}, got'):
        compress(named_network("WRN-10-2"), bad)


def test_validated_actions_come_as_numbers_and_booleans() -> None:
    keep, switch = validate_action({"keep": [[0, 1]] * 3, "switch": [[True, False]] * 3})
    assert (keep.dtype, switch.dtype) == (np.float64, np.bool_)
    assert keep.tolist() == [[0.0, 1.0]] * 3
    assert switch.tolist() == [[True, False]] * 3


def test_sampled_actions_are_valid() -> None:
    space = action_space(stages=4)
    space.seed(0)
    for _ in range(20):
        keep, switch = validate_action(space.sample(), stages=4)
        assert keep.shape == switch.shape == (4, 2)
