"""The closed-form cost against published figures, built modules and torch's flop counter."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from rcnas_env.architecture import NetworkSpec, StageSpec, StemSpec, named_network
from rcnas_env.cost import Cost, cost, stage_costs
from rcnas_env.networks import build

torch.set_num_threads(1)

GOLDEN = {
    "WRN-28-10": Cost(36_479_194, 5_243_328_768),
    "WRN-34-12": Cost(66_457_818, 9_582_337_536),
    "WRN-46-14": Cost(128_389_210, 18_585_412_352),
    "WRN-70-16": Cost(266_796_506, 38_764_210_176),
    "RobustResNet-A1": Cost(19_222_738, 5_080_232_192),
    "RobustResNet-A2": Cost(39_033_982, 10_738_805_376),
    "RobustResNet-A3": Cost(75_856_698, 19_819_890_176),
    "RobustResNet-A4": Cost(147_262_458, 39_272_890_880),
}
DEEP = ("WRN-46-14", "WRN-70-16", "RobustResNet-A2", "RobustResNet-A3", "RobustResNet-A4")
"""Those that take seconds to build; each has a sibling of the same kinds of block."""

BASIC_STAGES = st.builds(StageSpec, depth=st.integers(1, 2), planes=st.integers(1, 40), downsample=st.booleans())
ROBUST_STAGES = st.builds(
    StageSpec, depth=st.integers(1, 3), planes=st.integers(16, 80), downsample=st.booleans(), robust=st.just(True)
)
SMALL_SPECS = st.builds(
    NetworkSpec,
    stages=st.lists(BASIC_STAGES | ROBUST_STAGES, min_size=1, max_size=3).map(tuple),
    stem=st.builds(StemSpec, channels=st.integers(1, 64), stride=st.integers(1, 4)),
    input=st.tuples(st.sampled_from([1, 3]), st.integers(1, 33), st.integers(1, 33)),
    classes=st.integers(2, 20),
)


def measured_cost(spec: NetworkSpec, input_shape: tuple[int, int, int]) -> Cost:
    """Parameters of the module, and half the flops that torch counts, without any real arithmetic."""
    network = build(spec, device="meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, *input_shape, device="meta"))
    return Cost(sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2)


@pytest.mark.parametrize("name", GOLDEN)
def test_published_networks_cost_their_verified_figures(name: str) -> None:
    assert cost(named_network(name)) == GOLDEN[name]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in DEEP)) for name in GOLDEN])
def test_published_networks_are_built_with_their_verified_figures(name: str) -> None:
    assert measured_cost(named_network(name), (3, 32, 32)) == GOLDEN[name]


def test_wrn_34_r_costs_what_the_rc_nas_paper_prints() -> None:
    total = cost(named_network("WRN-34-R"))
    assert round(total.params / 1e6, 1) == 68.1
    assert round(total.macs / 1e9, 1) == 19.1


@settings(max_examples=20, deadline=None)
@given(SMALL_SPECS)
def test_cost_equals_the_built_module_s(spec: NetworkSpec) -> None:
    assert cost(spec) == measured_cost(spec, spec.input)


@settings(max_examples=8, deadline=None)
@given(SMALL_SPECS, st.integers(1, 40), st.integers(1, 40))
def test_input_shape_replaces_the_spec_s_own(spec: NetworkSpec, height: int, width: int) -> None:
    shape = (spec.input[0], height, width)
    assert cost(spec, shape) == measured_cost(spec, shape)


@given(SMALL_SPECS)
def test_stages_and_the_rest_add_up_to_the_network(spec: NetworkSpec) -> None:
    total, stages = cost(spec), stage_costs(spec)
    channels, height, width = spec.input
    features, stride = spec.stages[-1].out_channels, spec.stem.stride
    stem = 9 * channels * spec.stem.channels
    stem_pixels = -(-height // stride) * -(-width // stride)
    assert len(stages) == len(spec.stages)
    head = spec.classes * features
    assert total.params - sum(stage.params for stage in stages) == stem + 2 * features + head + spec.classes
    assert total.macs - sum(stage.macs for stage in stages) == stem * stem_pixels + head


def test_a_bad_input_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"input_shape\[1\] \(height\) must be an integer from 1 to 4096, got 0"):
        cost(named_network("WRN-16-2"), (3, 0, 32))


def test_cost_needs_no_torch() -> None:
    code = "import sys, rcnas_env.cost; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
