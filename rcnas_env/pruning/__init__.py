"""Pruning of adversarially trained networks, weight by weight: HYDRA and HARP.

>>> report = prune(model, data, "hydra", keep=0.1, recipes=PruningRecipes(), epsilon=8 / 255, seed=0)  # doctest: +SKIP
"""

from __future__ import annotations

from rcnas_env.pruning.macs import NetworkSize, network_size
from rcnas_env.pruning.pipeline import METHODS, PruningRecipes, PruningReport, prune

__all__ = ["METHODS", "NetworkSize", "PruningRecipes", "PruningReport", "network_size", "prune"]
