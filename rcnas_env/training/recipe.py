"""A recipe: everything that decides how a network is trained and measured, apart from the network and the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from rcnas_env.training.method import known_methods
from rcnas_env.training.precision import PRECISIONS, resolve_precision
from rcnas_env.validation import require_boolean, require_choice, require_integer, require_number, shown

SCHEDULES = ("one-cycle", "step", "constant")
COMPILATIONS = ("off", "graphs", "inductor", "inductor-graphs")
MOST_THREADS = 1_024

LATER_FIELDS: Mapping[str, Any] = {"compilation": "off"}
"""Fields that came when there were records, with their defaults. A default is left out of `Recipe.to_dict`: the keys of
jobs, and the settings that records hold, are what they were before."""


@dataclass(frozen=True)
class Recipe:
    """How students and teachers are trained from scratch, and how many eval images reward them.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    method: str = "trades"
    """Training method: "trades" (paper section 4), "sat", "mart", "clean", or a registered one."""
    epochs: int = 5
    """Passes over the training set (paper appendix D: 5 in the search; 100 for final training)."""
    batch_size: int = 128
    """Images a step (Huang et al. 2022, the recipe that the paper compares under: 128)."""
    learning_rate: float = 0.1
    """Peak learning rate of SGD (Huang et al. 2022)."""
    momentum: float = 0.9
    """Of SGD, with Nesterov's off (TRADES' published code)."""
    weight_decay: float = 5e-4
    """L2 penalty (2e-4 in TRADES' final trainings; the paper names none for the search's short ones)."""
    schedule: str = "one-cycle"
    """"one-cycle" (short trainings), "step" (÷10 at 75 % and 90 %, as TRADES), or "constant"."""
    gradient_clip: float = 5.0
    """Largest L2 norm of the gradient (Huang et al. 2022: 5)."""
    beta: float = 6.0
    """Weight of robustness: 1/λ in TRADES (Zhang et al. 2019: 6), λ in MART (Wang et al. 2020: 6)."""
    epsilon: float | None = None
    """L_inf radius trained against, in [0, 1] image units; None takes the data set's (8/255 at CIFAR)."""
    inner_steps: int = 10
    """PGD steps of the inner maximisation (TRADES: 10)."""
    relative_step: float = 0.25
    """Inner step size as a share of epsilon (2/255 at 8/255)."""
    precision: str = "fp32"
    """"fp32", "bf16" (the forward and backward passes; weights stay float32), or "auto": at once replaced by "bf16"
    where this machine computes that faster (AMX, a GPU of compute capability 8 or above), else by "fp32". It does not
    know the engine's device: name one of the two where trainings run on another (a CPU beside a GPU, a cluster)."""
    folded: bool = True
    """Freeze networks in the inner maximisation and in attacks (`rcnas_env.networks.frozen`): batch norms folded
    into convolutions, weights laid out once; the same forward pass to rounding, and faster. Verdicts always come
    from the network as it is."""
    compilation: str = "off"
    """Compile the network for its training (`rcnas_env.training.compilation`): "off", "graphs" (CUDA graphs),
    "inductor" (torch.compile), or "inductor-graphs"; the same to rounding. Takes seconds to minutes first, and pays in
    trainings that are long enough (docs/performance.md)."""
    augment: bool = True
    """Augment training images as the data set's entry says (paper appendix D: random crop and flip at CIFAR)."""
    n_eval: int = 256
    """Images split off the training set to reward students on (paper section 3.2: 256)."""
    n_train: int | None = None
    """Class-balanced images of the training set that are trained on; None for all of them."""
    n_test: int | None = None
    """Class-balanced images of the test set that final figures are measured on; None for all of them."""
    attack_batch_size: int = 256
    """Images attacked together; part of the evaluation's identity, as it orders the random starts."""
    threads: int = 1
    """CPU threads of one training: results are equal to the bit only for equal numbers."""

    def __post_init__(self) -> None:
        require_choice("recipe.method", self.method, known_methods())
        require_choice("recipe.schedule", self.schedule, SCHEDULES)
        require_choice("recipe.precision", self.precision, PRECISIONS)
        object.__setattr__(self, "precision", resolve_precision(self.precision))
        require_boolean("recipe.folded", self.folded)
        require_choice("recipe.compilation", self.compilation, COMPILATIONS)
        require_boolean("recipe.augment", self.augment)
        for name in ("epochs", "batch_size", "inner_steps", "n_eval", "attack_batch_size", "threads"):
            low = 2 if name == "batch_size" else 1  # batch norm needs two images
            high = MOST_THREADS if name == "threads" else None
            object.__setattr__(self, name, require_integer(f"recipe.{name}", getattr(self, name), low, high))
        for name, low in (("n_train", 2), ("n_test", 1)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, require_integer(f"recipe.{name}", getattr(self, name), low))
        for name in ("learning_rate", "gradient_clip", "relative_step"):
            self._number(name, 0.0, exclusive=True)
        for name in ("momentum", "weight_decay", "beta"):
            self._number(name, 0.0)
        if self.epsilon is not None:
            require_number("recipe.epsilon", self.epsilon, minimum=0.0, maximum=1.0, exclusive_minimum=True)
            object.__setattr__(self, "epsilon", float(self.epsilon))

    def _number(self, name: str, minimum: float, exclusive: bool = False) -> None:
        value = require_number(f"recipe.{name}", getattr(self, name), minimum=minimum, exclusive_minimum=exclusive)
        object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values, but those of `LATER_FIELDS` that are at their defaults."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if (name, value) not in LATER_FIELDS.items()}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Recipe:
        """Read `to_dict`'s form; fields that are absent keep their defaults.

        Raises:
            ValueError: it is no mapping, or a field is unknown or out of range.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping):
            raise ValueError(f"recipe must be a mapping of its fields {', '.join(known)}, got {shown(value)}")
        unknown = [name for name in value if name not in known]
        if unknown:
            raise ValueError(f"recipe must have no other fields than {', '.join(known)}: unknown {shown(unknown[0])}")
        return cls(**value)

    def but(self, **changes: Any) -> Recipe:
        """This recipe with some fields changed."""
        return replace(self, **changes)


def make_recipe(recipe: Recipe | Mapping[str, Any]) -> Recipe:
    """A Recipe from one, or from a mapping of its fields.

    Raises:
        ValueError: it is neither, or a field is unknown or out of range.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return Recipe.from_dict(recipe)
    raise ValueError(f"recipe must be a Recipe or a mapping of its fields, got {shown(recipe)}")
