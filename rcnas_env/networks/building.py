"""From a spec to a module, with reproducible initial weights."""

from __future__ import annotations

import math
from typing import overload

import torch
from torch import nn

from rcnas_env.architecture import Network, NetworkSpec
from rcnas_env.cell_architecture import CellNetworkSpec
from rcnas_env.networks.cell_network import CellNetwork
from rcnas_env.networks.residual_network import ResidualNetwork


@overload
def build(
    spec: NetworkSpec, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> ResidualNetwork: ...
@overload
def build(
    spec: CellNetworkSpec, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> CellNetwork: ...
def build(
    spec: Network, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> ResidualNetwork | CellNetwork:
    """The network of `spec` on `device`, in train mode, initialised from `generator` (a fresh one of seed 0 if None).

    The same generator state gives the same weights on every device, for they are drawn on the CPU; torch's global
    random state stays as it was. On the "meta" device nothing is allocated or drawn. Initialisation:
    convolutions N(0, 2 / (k² · out_channels)) (He et al. 2015, fan-out, with all output channels counted in grouped
    convolutions too, as the wide residual networks have it; in networks of cells, those of one group, for their
    convolutions are depthwise and would otherwise start the smaller the wider the network is); batch norm scale 1,
    shift 0; linear weights U(−1 / √in, 1 / √in), biases 0.

    Raises:
        ValueError: `generator` is not a CPU generator.
    """
    if generator is None:
        generator = torch.Generator(device="cpu").manual_seed(0)
    if generator.device.type != "cpu":
        raise ValueError(f"generator must be a CPU generator, got one on {str(generator.device)!r}")
    of_cells = isinstance(spec, CellNetworkSpec)
    # On the meta device the layers' own initialisation, which would draw from the global generator, does nothing.
    with torch.device("meta"):
        network = CellNetwork(spec) if isinstance(spec, CellNetworkSpec) else ResidualNetwork(spec)
    if torch.device(device).type == "meta":
        return network
    network.to_empty(device="cpu")
    _initialise(network, generator, fan_out_of_one_group=of_cells)
    return network.to(device)


def _initialise(network: nn.Module, generator: torch.Generator, fan_out_of_one_group: bool) -> None:
    """Set every parameter and buffer of `network` (on the CPU), drawing from `generator` in module order."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            fan_out //= module.groups if fan_out_of_one_group else 1
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out), generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
