"""Settings of `vpg+`; what each is for stands in `agents.vpg_plus`."""

from __future__ import annotations

from dataclasses import dataclass

from agents.vpg import VPGConfig
from rcnas_env.validation import require_boolean, require_integer, require_number


@dataclass(frozen=True)
class VPGPlusConfig(VPGConfig):
    """Settings of the learner; VPG's `update`, `baseline` and `form` play no part.

    Raises:
        ValueError: a field is out of range.
    """

    learning_rate: float = 0.003
    entropy_bonus: float = 0.05
    """Weight of the mean entropy of a switch, in nats."""
    initial_std: float = 1.5
    """σ(α) is then nearly uniform over the shares."""
    draws: int = 64
    """Actions drawn for each state, of which one is tried."""
    budget: bool = True
    """Whether what is over the budget is not tried. Without, predictions take every student for within it."""
    exploring: int = 8
    """Of the draws, so many are uniform over the action space: they may be tried, and are not learnt from."""
    over_budget: float = 1.0
    """Minus the advantage of a draw over the budget, in deviations: it costs nothing but a draw."""
    critic: bool = True
    """Whether accuracies are predicted."""
    teachers: bool = True
    """Whether the critic learns from the teachers' own accuracies too, which every observation pays for."""
    optimism: float = 0.5
    """Deviations of the critic's prediction that are added to its mean when an action is chosen."""
    distinct: bool = True
    """Whether students are tried whose accuracy under the task's attack is not known yet, while there are such."""
    own_choice: bool = True
    """Whether the critic names a search's best student, in place of the best reward."""
    state_baseline: bool = True
    """Whether advantages are relative to the mean of the same state's draws, in place of the batch's rewards."""
    normalise: bool = True
    """Whether advantages are in units of their deviation, and clipped."""
    advantage_clip: float = 2.0
    """Largest advantage, in deviations."""
    epochs: int = 4
    """Gradient steps on each batch."""
    ratio_clip: float = 0.2
    """How far the probability of an action may move, as a share, before its gradient stops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("budget", "critic", "teachers", "distinct", "own_choice", "state_baseline", "normalise"):
            require_boolean(f"vpg+.{name}", getattr(self, name))
        for name in ("draws", "epochs"):
            require_integer(f"vpg+.{name}", getattr(self, name), 1)
        require_integer("vpg+.exploring", self.exploring, 0)
        for name in ("optimism", "over_budget"):
            require_number(f"vpg+.{name}", getattr(self, name), minimum=0.0)
        for name in ("advantage_clip", "ratio_clip"):
            require_number(f"vpg+.{name}", getattr(self, name), minimum=0.0, exclusive_minimum=True)
