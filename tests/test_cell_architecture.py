"""Specs of networks of cells: JSON round trip, hashing, names, jobs, and errors that say what is wrong."""

# The wrong types that the error tests pass are their point.
# mypy: disable-error-code="arg-type"

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcnas_env.architecture import (
    NETWORK_NAMES,
    NetworkSpec,
    StageSpec,
    named_network,
    network_from_dict,
    network_from_json,
    read_network,
)
from rcnas_env.cell_architecture import CellNetworkSpec, Genotype, cell_layers
from rcnas_env.cell_rivals import ADVRUSH, RACL, ROBNET_LARGE_V2
from rcnas_env.evaluation.job import Job
from rcnas_env.registry import UnknownNameError
from rcnas_env.task import Task
from tests import tiny
from tests.cell_specs import CELL_NETWORKS

SKIP = ("skip_connect", 1)
SPEC = CellNetworkSpec(Genotype(normal=((SKIP,),), reduce=((SKIP, ("max_pool_3x3", 0)), (SKIP,))), 3, 2)
STAGES = NetworkSpec((StageSpec(1, 16),))


@given(CELL_NETWORKS)
def test_json_round_trip_gives_an_equal_spec_with_an_equal_hash(spec: CellNetworkSpec) -> None:
    again = network_from_json(spec.to_json())
    assert again == spec
    assert hash(again) == hash(spec)
    assert network_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@given(CELL_NETWORKS, CELL_NETWORKS)
def test_json_tells_specs_apart_exactly_where_equality_does(one: CellNetworkSpec, other: CellNetworkSpec) -> None:
    assert (one == other) == (one.to_json() == other.to_json())


def test_lists_become_tuples_and_specs_serve_as_set_members() -> None:
    genotype = Genotype(normal=[[["skip_connect", 1]]], reduce=[[["none", 0]]])
    as_lists = CellNetworkSpec(genotype, 3, 2, input=[1, 8, 8])
    assert as_lists.genotype == Genotype(normal=((SKIP,),), reduce=((("none", 0),),))
    assert {as_lists, as_lists.with_data((1, 8, 8), 10), as_lists.with_data((1, 8, 8), 9)} == {
        as_lists,
        CellNetworkSpec(as_lists.genotype, 3, 2, input=(1, 8, 8), classes=9),
    }


def test_the_json_of_a_network_of_stages_is_what_it_always_was() -> None:
    # Stored evaluations are found by a hash of this text.
    assert STAGES.to_json() == (
        '{"stem": {"channels": 16, "stride": 1}, "stages": [{"depth": 1, "planes": 16, "downsample": false, '
        '"robust": false}], "input": [3, 32, 32], "classes": 10}'
    )
    assert network_from_json(STAGES.to_json()) == STAGES
    assert STAGES != SPEC


def changed(**fields: Any) -> dict[str, Any]:
    return SPEC.to_dict() | fields


def cells(normal: object, reduce: object = (((SKIP,),))) -> dict[str, Any]:
    return changed(genotype={"normal": normal, "reduce": reduce})


@pytest.mark.parametrize(
    ("value", "field", "given_value", "allowed"),
    [
        (changed(kind="stages"), "kind", "'stages'", "'cells'"),
        (changed(genotype=3), "genotype", "3", "normal, reduce"),
        (changed(genotype={"normal": []}), "genotype", "missing 'reduce'", "normal, reduce"),
        (cells([]), "genotype.normal", "[]", "1 to 64 nodes"),
        (cells("skip_connect"), "genotype.normal", "'skip_connect'", "1 to 64 nodes"),
        (cells([[SKIP]], [[SKIP], []]), "genotype.reduce[1]", "[]", "1 to 64 edges [operation, state]"),
        (cells([["skip_connect"]]), "genotype.normal[0][0]", "'skip_connect'", "[operation, state]"),
        (cells([[SKIP, ("conv", 0)]]), "genotype.normal[0][1][0] (operation)", "'conv'", "'sep_conv_5x5'"),
        (cells([[SKIP, (["conv"], 0)]]), "genotype.normal[0][1][0] (operation)", "['conv']", "'sep_conv_5x5'"),
        (cells([[("none", 2)]]), "genotype.normal[0][0][1] (state)", "2", "from 0 to 1"),
        (cells([[SKIP], [("none", True)]]), "genotype.normal[1][0][1] (state)", "True", "from 0 to 2"),
        (changed(layers=2), "layers", "2", "from 3 to 1024"),
        (changed(channels=0), "channels", "0", "from 1 to 4096"),
        (changed(affine=1), "affine", "1", "true or false"),
        (changed(stem_stride=5), "stem_stride", "5", "from 1 to 4"),
        (changed(input=[3, 0, 32]), "input[1] (height)", "0", "from 1 to 4096"),
        (changed(classes=1), "classes", "1", "at least 2"),
        (changed(depth=1), "network", "unknown 'depth'", "stem_stride"),
        ({"kind": "cells"}, "network", "missing 'layers'", "genotype"),
        (None, "network", "None", "stages"),
    ],
)
def test_errors_name_the_field_the_value_and_what_is_allowed(
    value: object, field: str, given_value: str, allowed: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(field)} ") as caught:
        network_from_dict(value)
    assert given_value in str(caught.value)
    assert allowed in str(caught.value)


def test_a_spec_takes_a_genotype_object_only() -> None:
    with pytest.raises(ValueError, match="^genotype must be a Genotype, got {}"):
        CellNetworkSpec({}, 3, 2)


@given(st.text(max_size=3) | st.lists(st.integers(0, 3), max_size=3) | st.dictionaries(st.text(), st.integers()))
def test_a_cell_of_any_other_form_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError, match=r"^genotype\.normal"):
        Genotype(normal=value, reduce=((SKIP,),))


@pytest.mark.parametrize(
    ("name", "genotype", "layers", "channels", "affine"),
    [
        ("RobNet-large-v2", ROBNET_LARGE_V2, 33, 64, False),
        ("AdvRush-7@96", ADVRUSH, 23, 96, True),
        ("AdvRush-22@100", ADVRUSH, 68, 100, True),
        ("RACL-1@4", RACL, 5, 4, True),
    ],
)
def test_names_stand_for_cells_layers_and_channels(
    name: str, genotype: Genotype, layers: int, channels: int, affine: bool
) -> None:
    expected = CellNetworkSpec(genotype, layers, channels, affine, input=(1, 8, 8), classes=7)
    assert named_network(name, (1, 8, 8), 7) == expected
    assert named_network(name, (3, 64, 64), 7) == CellNetworkSpec(genotype, layers, channels, affine, 2, (3, 64, 64), 7)


def test_rivals_cells_are_the_published_ones() -> None:
    """Written out once more, in the notation of the papers' figures."""

    def text(nodes: tuple[tuple[tuple[str, int], ...], ...]) -> str:
        return " | ".join(" ".join(f"{operation},{state}" for operation, state in node) for node in nodes)

    short = {"sep_conv_3x3": "sep3", "sep_conv_5x5": "sep5", "dil_conv_3x3": "dil3", "skip_connect": "skip"}
    short |= {"avg_pool_3x3": "avg", "res_sep_conv_3x3": "res3"}

    def shortened(nodes: tuple[tuple[tuple[str, int], ...], ...]) -> str:
        return text(tuple(tuple((short[operation], state) for operation, state in node) for node in nodes))

    assert shortened(ADVRUSH.normal) == "sep3,1 sep3,0 | sep5,0 sep3,1 | sep3,1 sep3,0 | skip,0 sep3,1"
    assert shortened(ADVRUSH.reduce) == "sep3,0 sep3,1 | skip,0 dil3,2 | skip,0 avg,1 | skip,0 skip,2"
    assert shortened(RACL.normal) == "sep3,0 sep3,1 | sep5,0 skip,1 | sep3,0 skip,3 | sep3,3 skip,4"
    assert shortened(RACL.reduce) == "sep3,0 sep5,1 | avg,0 dil3,1 | sep3,0 sep5,1 | sep3,2 dil3,3"
    robnet = "res3,0 res3,1 | res3,0 res3,1 res3,2 | sep3,0 res3,1 sep3,2 skip,3 | res3,0 sep3,1 sep3,2 sep3,3 res3,4"
    assert shortened(ROBNET_LARGE_V2.normal) == shortened(ROBNET_LARGE_V2.reduce) == robnet


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("AdvRush (7@96)", "AdvRush-7@96"),
        ("RACL-7x104", "RACL-7@104"),
        ("robnet-large-v2", "RobNet-large-v2"),
        ("RobNet-v2", "RobNet-large-v2"),
    ],
)
def test_unknown_names_suggest_the_nearest(wrong: str, meant: str) -> None:
    with pytest.raises(UnknownNameError, match=f"Did you mean '{re.escape(meant)}'"):
        named_network(wrong)
    assert {"RobNet-large-v2", "AdvRush-N@C", "RACL-N@C"} < set(NETWORK_NAMES)


@pytest.mark.parametrize("name", ["AdvRush-0@96", "RACL-341@4", "RACL-7@0", "AdvRush-7@9999"])
def test_n_and_c_have_a_range(name: str) -> None:
    with pytest.raises(ValueError, match=f"network '{name}': N@C must have N from 1 to 340 and C from 1 to 4096"):
        named_network(name)


def test_read_network_takes_names_and_files(tmp_path: Path) -> None:
    file = tmp_path / "rival.json"
    file.write_text(SPEC.to_json(), encoding="utf-8")
    assert read_network(str(file), (3, 64, 64), 200) == SPEC
    assert read_network("RACL-1@4", (1, 8, 8), 4) == named_network("RACL-1@4", (1, 8, 8), 4)
    file.write_text(json.dumps(changed(layers=0)), encoding="utf-8")
    with pytest.raises(ValueError, match=r"rival\.json': layers must be an integer from 3 to 1024, got 0"):
        read_network(str(file))


def test_jobs_take_networks_of_cells_and_tell_them_apart() -> None:
    names = ("AdvRush-1@4", "AdvRush-2@4", "AdvRush-1@5", "RACL-1@4", "RobNet-large-v2")
    networks = [*(named_network(name, (1, 8, 8)) for name in names), tiny.STUDENT]
    jobs = [tiny.job(network) for network in networks]
    assert len({job.key for job in jobs}) == len({job.training_key for job in jobs}) == len(jobs)
    for job in jobs:
        again = Job.from_dict(json.loads(json.dumps(job.to_dict())))
        assert again == job
        assert again.key == job.key
    through_teacher = tiny.job(networks[0], attack_source="teacher")
    assert through_teacher.source_job == through_teacher.teacher_job


def test_a_job_wants_the_images_and_classes_of_its_data_set() -> None:
    with pytest.raises(ValueError, match=r"job\.network must have input \(1, 8, 8\) and 10 classes"):
        tiny.job(named_network("RACL-1@4"))


@pytest.mark.parametrize("teacher", ["AdvRush-1@4", named_network("AdvRush-1@4", (1, 8, 8))])
def test_a_teacher_has_stages_not_cells(teacher: object) -> None:
    with pytest.raises(ValueError, match=r"^task\.teacher must "):
        Task("digits", "fgsm", teacher, 1e6)


def test_nothing_here_needs_torch() -> None:
    code = (
        "import sys\nfrom rcnas_env.architecture import named_network\nfrom rcnas_env.cost import cost\n"
        "cost(named_network('RACL-7@104'))\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_layers_reduce_twice_and_double_the_channels() -> None:
    genotype = Genotype(normal=((("skip_connect", 0),),) * 3, reduce=((("skip_connect", 1),),))
    layers = list(cell_layers(CellNetworkSpec(genotype, 7, 10)))
    assert [layer.reduces for layer in layers] == [i in (2, 4) for i in range(7)]
    assert [layer.halves_first for layer in layers] == [i in (3, 5) for i in range(7)]
    assert [layer.channels for layer in layers] == [10, 10, 20, 20, 40, 40, 40]
    assert [layer.out_channels for layer in layers] == [30, 30, 20, 60, 40, 120, 120]
    assert [layer.in_channels for layer in layers] == [
        (30, 30), (30, 30), (30, 30), (30, 20), (20, 60), (60, 40), (40, 120)
    ]  # fmt: skip
