"""Networks as torch modules: `build` makes the one that a `NetworkSpec` or a `CellNetworkSpec` describes."""

from __future__ import annotations

from rcnas_env.networks.basic_block import BasicBlock
from rcnas_env.networks.building import build
from rcnas_env.networks.cell_network import Cell, CellNetwork
from rcnas_env.networks.residual_network import ResidualNetwork
from rcnas_env.networks.robust_block import RobustBlock, SqueezeExcitation

__all__ = ["BasicBlock", "Cell", "CellNetwork", "ResidualNetwork", "RobustBlock", "SqueezeExcitation", "build"]
