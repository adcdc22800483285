"""Network specs: JSON round trip, hashing, names, and errors that say what is wrong."""

# The wrong types that the error tests pass are their point.
# mypy: disable-error-code="arg-type"

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcnas_env.architecture import (
    MAX_DEPTH,
    MAX_PLANES,
    NetworkSpec,
    StageSpec,
    StemSpec,
    named_network,
    read_network,
)
from rcnas_env.registry import UnknownNameError

BASIC_STAGES = st.builds(
    StageSpec, depth=st.integers(1, MAX_DEPTH), planes=st.integers(1, MAX_PLANES), downsample=st.booleans()
)
ROBUST_STAGES = st.builds(
    StageSpec,
    depth=st.integers(1, MAX_DEPTH),
    planes=st.integers(16, MAX_PLANES),
    downsample=st.booleans(),
    robust=st.just(True),
)
SPECS = st.builds(
    NetworkSpec,
    stages=st.lists(BASIC_STAGES | ROBUST_STAGES, min_size=1, max_size=5).map(tuple),
    stem=st.builds(StemSpec, channels=st.integers(1, MAX_PLANES), stride=st.integers(1, 4)),
    input=st.tuples(st.integers(1, 1_024), st.integers(1, 4_096), st.integers(1, 4_096)),
    classes=st.integers(2, 10_000),
)
STAGE = StageSpec(depth=2, planes=16)
VALID = NetworkSpec(stages=(STAGE, StageSpec(1, 32, downsample=True, robust=True))).to_dict()


@given(SPECS)
def test_json_round_trip_gives_an_equal_spec_with_an_equal_hash(spec: NetworkSpec) -> None:
    again = NetworkSpec.from_json(spec.to_json())
    assert again == spec
    assert hash(again) == hash(spec)
    assert NetworkSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@given(SPECS, SPECS)
def test_json_tells_specs_apart_exactly_where_equality_does(one: NetworkSpec, other: NetworkSpec) -> None:
    assert (one == other) == (one.to_json() == other.to_json())


def test_specs_serve_as_set_members_and_lists_become_tuples() -> None:
    as_lists = NetworkSpec(stages=[STAGE], input=[1, 8, 8])
    as_tuples = NetworkSpec(stages=(STAGE,), input=(1, 8, 8))
    assert {as_lists, as_tuples, as_tuples.with_data((3, 8, 8), 10)} == {
        as_tuples,
        NetworkSpec((STAGE,), input=(3, 8, 8)),
    }


def test_specs_are_frozen() -> None:
    with pytest.raises(AttributeError):
        NetworkSpec((STAGE,)).classes = 3  # type: ignore[misc]


def test_with_data_changes_input_and_classes_only() -> None:
    spec = NetworkSpec((STAGE,), StemSpec(8, 2)).with_data((1, 28, 14), 7)
    assert spec == NetworkSpec((STAGE,), StemSpec(8, 2), (1, 28, 14), 7)


def _changed(**fields: Any) -> Callable[[], object]:
    return lambda: NetworkSpec.from_dict({**VALID, **fields})


@pytest.mark.parametrize(
    ("make", "field", "given_value", "allowed"),
    [
        (lambda: StageSpec(0, 16), "stage.depth", "0", "from 1 to 1024"),
        (lambda: StageSpec(True, 16), "stage.depth", "True", "an integer"),
        (lambda: StageSpec(2.5, 16), "stage.depth", "2.5", "an integer"),
        (lambda: StageSpec(MAX_DEPTH + 1, 16), "stage.depth", "1025", "from 1 to 1024"),
        (lambda: StageSpec(1, 0), "stage.planes", "0", "from 1 to 16384"),
        (lambda: StageSpec(1, "16"), "stage.planes", "'16'", "from 1 to 16384"),
        (lambda: StageSpec(1, 15, robust=True), "stage.planes (of a robust stage)", "15", "from 16 to 16384"),
        (lambda: StageSpec(1, 16, downsample=1), "stage.downsample", "1", "true or false"),
        (lambda: StageSpec(1, 16, robust=None), "stage.robust", "None", "true or false"),
        (lambda: StemSpec(0), "stem.channels", "0", "from 1 to 16384"),
        (lambda: StemSpec(16, 5), "stem.stride", "5", "from 1 to 4"),
        (lambda: NetworkSpec(()), "stages", "()", "one StageSpec or more"),
        (lambda: NetworkSpec((STAGE, 3)), "stages", "3", "one StageSpec or more"),
        (lambda: NetworkSpec((STAGE,), stem=16), "stem", "16", "a StemSpec"),
        (lambda: NetworkSpec((STAGE,), input=(3, 32)), "input", "(3, 32)", "[channels, height, width]"),
        (lambda: NetworkSpec((STAGE,), input=(0, 32, 32)), "input[0] (channels)", "0", "from 1 to 1024"),
        (lambda: NetworkSpec((STAGE,), input=(3, 0, 32)), "input[1] (height)", "0", "from 1 to 4096"),
        (lambda: NetworkSpec((STAGE,), input=(3, 32, 8.0)), "input[2] (width)", "8.0", "from 1 to 4096"),
        (lambda: NetworkSpec((STAGE,), classes=1), "classes", "1", "at least 2"),
        (lambda: NetworkSpec.from_dict([1]), "network", "[1]", "stem, stages, input, classes"),
        (lambda: NetworkSpec.from_dict({}), "network", "missing 'stem'", "stem, stages, input, classes"),
        (_changed(depth=3), "network", "unknown 'depth'", "stem, stages, input, classes"),
        (_changed(stem={"channels": 8}), "stem", "missing 'stride'", "channels, stride"),
        (_changed(stem={"channels": 8, "stride": 0}), "stem.stride", "0", "from 1 to 4"),
        (_changed(stages={}), "stages", "{}", "a list of one stage or more"),
        (_changed(stages=[]), "stages", "()", "one StageSpec or more"),
        (
            _changed(stages=[VALID["stages"][0], {}]),
            "stages[1]",
            "missing 'depth'",
            "depth, planes, downsample, robust",
        ),
        (
            _changed(stages=[VALID["stages"][0], {**VALID["stages"][1], "planes": -4}]),
            "stages[1].planes",
            "-4",
            "from 16 to 16384",
        ),
        (_changed(input="3x32x32"), "input", "'3x32x32'", "[channels, height, width]"),
        (_changed(classes=None), "classes", "None", "at least 2"),
        (lambda: NetworkSpec.from_json("{"), "network", "text that is not", "JSON"),
        (lambda: NetworkSpec.from_json("[" * 100_000), "network", "text that is not", "JSON"),
        (lambda: named_network("WRN-16-2", input=(3, -1, 32)), "input[1] (height)", "-1", "from 1 to 4096"),
        (lambda: named_network("WRN-16-2", classes=0), "classes", "0", "at least 2"),
        (lambda: named_network("WRN-29-10"), "network", "'WRN-29-10'", "6n + 4"),
        (lambda: named_network("WRN-4-10"), "network", "'WRN-4-10'", "n ≥ 1"),
    ],
)
def test_errors_name_the_field_the_value_and_what_is_allowed(
    make: Callable[[], object], field: str, given_value: str, allowed: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(field)} ") as caught:
        make()
    assert given_value in str(caught.value)
    assert allowed in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("WRN28-10", "WRN-28-10"),
        ("wrn-70-16", "WRN-70-16"),
        ("RobustResnet-A3", "RobustResNet-A3"),
        ("WRN34R", "WRN-34-R"),
    ],
)
def test_unknown_names_suggest_the_nearest(wrong: str, meant: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown network '{wrong}'.*Did you mean '{meant}'"):
        named_network(wrong)


def test_wide_residual_networks_follow_their_name() -> None:
    spec = named_network("WRN-34-12", input=(1, 28, 28), classes=7)
    assert spec.stages == (StageSpec(5, 192), StageSpec(5, 384, True), StageSpec(5, 768, True))
    assert (spec.stem, spec.input, spec.classes) == (StemSpec(16, 1), (1, 28, 28), 7)


def test_robust_resnets_take_depths_and_widths_of_huang_et_al_2022() -> None:
    stages = named_network("RobustResNet-A4").stages
    assert stages == (
        StageSpec(27, 160, False, True),
        StageSpec(28, 448, True, True),
        StageSpec(13, 384, True, True),
    )


def test_wrn_34_r_has_widening_factors_20_20_8() -> None:
    stages = named_network("WRN-34-R").stages
    assert stages == (StageSpec(5, 320), StageSpec(5, 640, True), StageSpec(5, 512, True))


@pytest.mark.parametrize(("height", "width", "stride"), [(63, 64, 1), (64, 64, 2), (96, 128, 2)])
def test_the_stem_of_a_named_network_has_stride_2_from_64_by_64_on(height: int, width: int, stride: int) -> None:
    assert named_network("WRN-28-10", input=(3, height, width)).stem.stride == stride


def test_read_network_takes_names_and_files(tmp_path: Path) -> None:
    spec = NetworkSpec((STAGE,), input=(1, 8, 8), classes=4)
    file = tmp_path / "student.json"
    file.write_text(spec.to_json(), encoding="utf-8")
    assert read_network(str(file), input=(3, 64, 64), classes=200) == spec
    assert read_network("WRN-16-2", (1, 8, 8), 4) == named_network("WRN-16-2", (1, 8, 8), 4)


@pytest.mark.parametrize(
    ("content", "problem"), [("{}", "missing 'stem'"), ("no JSON", "JSON"), (None, "No such file")]
)
def test_read_network_names_the_file_that_it_cannot_read(tmp_path: Path, content: str | None, problem: str) -> None:
    file = tmp_path / "broken.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="broken.json.*" + problem):
        read_network(str(file))
