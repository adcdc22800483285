"""The closed-form cost of networks of cells against published figures, built modules and torch's flop counter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rcnas_env.architecture import named_network
from rcnas_env.cell_architecture import CellNetworkSpec
from rcnas_env.cost import Cost, cost
from rcnas_env.networks import build
from tests.cell_specs import GENOTYPES

torch.set_num_threads(1)

GOLDEN = {
    "RobNet-large-v2": Cost(33_326_666, 5_094_615_040),
    "AdvRush-7@96": Cost(32_575_018, 4_948_466_688),
    "RACL-7@104": Cost(32_509_682, 4_910_813_440),
    "AdvRush-10@96": Cost(45_731_434, 6_898_572_288),
    "RACL-10@104": Cost(45_093_890, 6_773_268_736),
}
PUBLISHED = {  # (M parameters, GMACs) of the RC-NAS paper's main table
    "RobNet-large-v2": (33.3, 5.10),
    "AdvRush-7@96": (32.6, 4.97),
    "RACL-7@104": (32.5, 4.93),
}
PUBLISHED_LARGER = {
    "AdvRush-10@96": (67.5, 18.33),
    "RACL-10@104": (67.9, 18.75),
    "AdvRush-16@100": (131, 23.39),
    "RACL-16@108": (132, 24.12),
    "AdvRush-22@100": (266, 41.75),
    "RACL-22@110": (264, 40.96),
}
SMALL_SPECS = st.builds(
    CellNetworkSpec,
    genotype=GENOTYPES,
    layers=st.integers(3, 5),
    channels=st.integers(1, 12),
    affine=st.booleans(),
    stem_stride=st.integers(1, 3),
    input=st.tuples(st.sampled_from([1, 3]), st.integers(1, 33), st.integers(1, 33)),
    classes=st.integers(2, 20),
)


def measured_cost(spec: CellNetworkSpec, input_shape: tuple[int, int, int]) -> tuple[Cost, int]:
    """(parameters of the module and half the flops that torch counts; outputs of affine batch norms)."""
    network, outputs = build(spec, device="meta").to_empty(device="cpu").eval(), 0  # shapes alone matter

    def count(module: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal outputs
        outputs += output.numel()

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *input_shape))
    params = sum(parameter.numel() for parameter in network.parameters())
    return Cost(params, counter.get_total_flops() // 2), outputs


@pytest.mark.parametrize("name", GOLDEN)
def test_published_networks_cost_their_verified_figures(name: str) -> None:
    assert cost(named_network(name)) == GOLDEN[name]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * ("@" in name)) for name in PUBLISHED])
def test_built_networks_have_the_published_size_if_affine_batch_norms_count(name: str) -> None:
    total, batch_norms = measured_cost(named_network(name), (3, 32, 32))
    assert total == GOLDEN[name]
    params, gmacs = PUBLISHED[name]
    assert round(total.params / 1e6, 1) == params
    assert (total.macs + batch_norms) / 1e9 == pytest.approx(gmacs, abs=0.0055)


@pytest.mark.parametrize("name", PUBLISHED_LARGER)
def test_the_papers_larger_networks_do_not_follow_from_their_labels(name: str) -> None:
    total, (params, gmacs) = cost(named_network(name)), PUBLISHED_LARGER[name]
    assert params > 1.4 * total.params / 1e6
    assert gmacs > 1.9 * total.macs / 1e9


@settings(max_examples=10, deadline=None)
@given(SMALL_SPECS, st.integers(1, 40), st.integers(1, 40))
def test_cost_equals_the_built_module_s(spec: CellNetworkSpec, height: int, width: int) -> None:
    shape = (spec.input[0], height, width)
    assert cost(spec, shape) == measured_cost(spec, shape)[0]
    assert cost(spec) == cost(spec, spec.input)


def test_a_bad_input_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"input_shape\[2\] \(width\) must be an integer from 1 to 4096, got 0"):
        cost(named_network("RACL-1@4"), (3, 8, 0))
