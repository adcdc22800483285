"""Frozen networks: the forward pass and the input gradient of a network in evaluation mode, without autograd."""

from rcnas_env.networks.frozen.network import FrozenNetwork, FrozenTwin, freeze

__all__ = ["FrozenNetwork", "FrozenTwin", "freeze"]
