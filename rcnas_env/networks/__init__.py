"""Networks as torch modules: `build` makes the one that a `NetworkSpec` describes."""

from __future__ import annotations

from rcnas_env.networks.basic_block import BasicBlock
from rcnas_env.networks.residual_network import ResidualNetwork, build
from rcnas_env.networks.robust_block import RobustBlock, SqueezeExcitation

__all__ = ["BasicBlock", "ResidualNetwork", "RobustBlock", "SqueezeExcitation", "build"]
