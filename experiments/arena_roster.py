"""Who competes in the arena: each entry is an agent of the registry, with settings, meta-trained or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.registry import known_agents
from rcnas_env.validation import require_choice


@dataclass(frozen=True)
class Entry:
    """One competitor.

    label: its name in tables and on the command line.
    agent: its name in `agents.registry`.
    settings: of the agent, in place of its defaults.
    meta_trained: whether it learns on the training tasks before it meets the held-out one (paper section 3.3).
    encoded: whether it is given a pre-trained state encoder, whose evaluations it is charged for.
    about: what it is, a sentence.
    """

    label: str
    agent: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    meta_trained: bool = False
    encoded: bool = False
    about: str = ""


RANDOM_SEARCH = "random-search"
"""What improvement is measured against."""

ROSTER = (
    Entry("rc-nas+", "vpg+", meta_trained=True, encoded=True, about="`vpg+`, meta-trained, then fine-tuned."),
    Entry("r-nas+", "vpg+", encoded=True, about="`vpg+` from nothing but the pre-trained state encoder."),
    Entry("rc-nas", "vpg", meta_trained=True, encoded=True, about="The paper's agent: meta-trained, then fine-tuned."),
    Entry("r-nas", "vpg", encoded=True, about="The paper's agent without meta-training (its section 4.4.2)."),
    Entry(RANDOM_SEARCH, RANDOM_SEARCH, about="Uniform actions, those over the budget drawn again."),
    Entry("evolution", "evolution", about="Regularised evolution (Real et al. 2019)."),
    Entry("local-search", "local-search", about="Hill climbing with restarts (White et al. 2021)."),
    Entry("tpe", "tpe", about="Tree-structured Parzen estimators: Optuna's TPESampler."),
    Entry("bayesian", "bayesian", about="Bayesian optimisation with a Gaussian process: Optuna's GPSampler."),
    Entry("ppo", "ppo", about="Proximal policy optimisation, of stable-baselines3."),
    Entry("a2c", "a2c", about="Advantage actor-critic, of stable-baselines3."),
    Entry("trpo", "trpo", about="Trust-region policy optimisation, of sb3-contrib."),
    Entry("recurrent-ppo", "recurrent-ppo", about="PPO with an LSTM, of sb3-contrib."),
    Entry("sac", "sac", about="Soft actor-critic, of stable-baselines3."),
    Entry("td3", "td3", about="Twin delayed deep deterministic policy gradient, of stable-baselines3."),
    Entry("crossq", "crossq", about="CrossQ, of sb3-contrib."),
)
"""RC-NAS is meta-trained, R-NAS is not (paper section 4.4.2). The scaling rule does not compete: its networks need not
be students of the task's teacher, and its one evaluation makes no curve."""


ABLATIONS = tuple(
    Entry(label, "vpg+", settings, meta_trained=True, encoded=True, about="rc-nas+ with one of its additions off.")
    for label, settings in (
        ("plus-no-critic", {"critic": False}),
        ("plus-no-teachers", {"teachers": False}),
        ("plus-few-draws", {"draws": 9}),  # eight uniform ones, and one of the policy
        ("plus-no-policy", {"exploring": 63}),  # the critic chooses among uniform draws, all but one
        ("plus-no-exploring", {"exploring": 0}),
        ("plus-no-budget", {"budget": False}),
        ("plus-no-distinct", {"distinct": False}),
        ("plus-no-own-choice", {"own_choice": False}),
        ("plus-over-budget-unlearnt", {"over_budget": 0.0}),
        ("plus-batch-baseline", {"state_baseline": False}),
        ("plus-no-normalise", {"normalise": False}),
        ("plus-no-entropy", {"entropy_bonus": 0.0}),
        ("plus-one-epoch", {"epochs": 1}),
        ("plus-no-optimism", {"optimism": 0.0}),
        ("plus-vpg-std", {"initial_std": 1.0}),
    )
)
"""rc-nas+ without one of its additions each; they compete where they are named."""


def available() -> tuple[str, ...]:
    """Labels of the entries whose agent is registered, in the roster's order."""
    return tuple(entry.label for entry in ROSTER if entry.agent in known_agents())


def entry(label: str) -> Entry:
    """The entry called `label`.

    Raises:
        ValueError: there is none, or its agent is not registered.
    """
    known = (*available(), *(each.label for each in ABLATIONS))
    require_choice("agents", label, known)
    return next(each for each in (*ROSTER, *ABLATIONS) if each.label == label)


def chosen(labels: Sequence[str]) -> tuple[Entry, ...]:
    """The entries called `labels` in the roster's order; all available ones for no labels.

    Raises:
        ValueError: a label is unknown, or there twice.
    """
    if len(set(labels)) != len(labels):
        raise ValueError(f"agents must be different ones, got {list(labels)}")
    wanted = {entry(label).label for label in labels} or set(available())
    return tuple(each for each in (*ROSTER, *ABLATIONS) if each.label in wanted)
