"""Whether wandb gets a run's numbers, and its learning curves as wandb's charts draw them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, zip_longest
from typing import Any, Literal

WandbMode = Literal["off", "offline", "online"]

_BY_ENVIRONMENT: Mapping[str, WandbMode] = {
    **dict.fromkeys(("online", "run", "shared"), "online"),
    **dict.fromkeys(("offline", "dryrun"), "offline"),
}
"""Values of WANDB_MODE that ask for a run; all others, "disabled" among them, ask for none."""


def default_mode() -> WandbMode:
    """What WANDB_MODE asks for; "off" where it is not set (docs/design.md says why not "offline")."""
    return _BY_ENVIRONMENT.get(os.environ.get("WANDB_MODE", ""), "off")


def history(results: Mapping[str, Any]) -> list[dict[str, float]]:
    """The learning curves in a record's results: for each step, from the first, the values that there are.

    Best reward and best robust accuracy within the budget so far, after each evaluation of a search ("trials", of one
    agent or by agent); best accuracies by agent and seed ("curves" of experiments.reproduce); meta-training's rewards.
    """
    curves: dict[str, Sequence[float]] = {}
    trials = results.get("trials", {})
    for agent, tried in (trials if isinstance(trials, Mapping) else {"search": trials}).items():
        curves[f"{agent}/best reward"] = _best(each["reward"] for each in tried)
        accuracies = (each["robust_accuracy"] if each["within_budget"] else None for each in tried)
        curves[f"{agent}/best robust accuracy"] = _best(0.0 if value is None else value for value in accuracies)
    for agent, seeds in results.get("curves", {}).items():
        curves |= {f"{agent}/best robust accuracy, seed {number}": values for number, values in enumerate(seeds)}
    curves["meta-training/reward"] = results.get("meta_rewards", ())
    steps = zip_longest(*curves.values())
    return [{name: float(v) for name, v in zip(curves, step, strict=True) if v is not None} for step in steps]


def _best(values: Iterable[float]) -> list[float]:
    return list(accumulate(values, max))
