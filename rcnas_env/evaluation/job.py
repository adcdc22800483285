"""A job: what is to be evaluated, and nothing else, so that it can be hashed, stored, sent and repeated."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rcnas_env.architecture import Network, network_from_dict
from rcnas_env.attacks.catalogue import attack_entry
from rcnas_env.data.dataset import dataset_entry, validate_eval_size, validate_train_size
from rcnas_env.task import Task
from rcnas_env.training.recipe import Recipe
from rcnas_env.validation import require_choice, require_fields, require_integer

SPLITS = ("eval", "test")
EVALUATION_VERSION = 4
"""Part of every key: raised when a change to the code changes what any job's result would be. Where only one attack
changes, its own `AttackEntry.revision` is raised."""

_ATTACK_ONLY_FIELDS = ("attack_batch_size", "n_test")
"""Recipe fields that decide how a network is attacked, not how it is trained."""


def _digest(kind: str, content: Mapping[str, Any]) -> str:
    text = json.dumps({"kind": kind, "version": EVALUATION_VERSION, **content}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Job:
    """Train `network` on the task's data set by `recipe`, attack it as the task says, measure it.

    The task's budget plays no part here, nor its teacher unless the attack goes through it: two jobs that
    differ in nothing that matters have the same key.

    network: the student, the teacher itself, or a rival made of cells.
    seed: of initial weights, batch order and attacks, at least 0.
    split: the images attacked: "eval" (rewards) or "test" (final figures).

    Raises:
        ValueError: network and data set do not fit, or a field is out of range.
    """

    network: Network
    task: Task
    recipe: Recipe
    seed: int = 0
    split: str = "eval"

    def __post_init__(self) -> None:
        data = dataset_entry(self.task.dataset)
        if (self.network.input, self.network.classes) != (data.input, data.classes):
            raise ValueError(
                f"job.network must have input {data.input} and {data.classes} classes for dataset "
                f"{self.task.dataset!r}, got {self.network.input} and {self.network.classes}"
            )
        validate_eval_size(self.task.dataset, self.recipe.n_eval)
        validate_train_size(self.task.dataset, self.recipe.n_train, self.recipe.n_eval)
        object.__setattr__(self, "seed", require_integer("job.seed", self.seed, 0))
        require_choice("job.split", self.split, SPLITS)

    @property
    def training_epsilon(self) -> float:
        """The radius trained against: the recipe's, or the data set's."""
        return dataset_entry(self.task.dataset).epsilon if self.recipe.epsilon is None else self.recipe.epsilon

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the data set's images as they were when this was first asked for, as the keys are; "" for most sets."""
        return dataset_entry(self.task.dataset).fingerprint

    @functools.cached_property
    def training_key(self) -> str:
        """Identity of the training, 64 hexadecimal digits."""
        recipe = {name: value for name, value in self.recipe.to_dict().items() if name not in _ATTACK_ONLY_FIELDS}
        content = {
            "network": self.network.to_dict(),
            "dataset": self.task.dataset,
            "recipe": {**recipe, "epsilon": self.training_epsilon},
            "seed": self.seed,
        }
        if self.fingerprint:
            content["fingerprint"] = self.fingerprint
        return _digest("training", content)

    @functools.cached_property
    def key(self) -> str:
        """Identity of the evaluation, 64 hexadecimal digits."""
        content = {
            "training": self.training_key,
            "attack": self.task.attack,
            "epsilon": self.task.radius,
            "attack_batch_size": self.recipe.attack_batch_size,
            "split": self.split,
            "n_test": self.recipe.n_test if self.split == "test" else None,
            "through": self.source_job.training_key if self.source_job else None,
        }
        revision = attack_entry(self.task.attack).revision
        if revision > 1:
            content["revision"] = revision
        return _digest("evaluation", content)

    @property
    def source_job(self) -> Job | None:
        """The job of the teacher that the attack goes through; None for a white-box attack."""
        if self.task.attack_source == "student" or self.network == self.task.teacher:
            return None
        return self.teacher_job

    @property
    def teacher_job(self) -> Job:
        """The same job with the task's teacher as its network."""
        return Job(self.task.teacher, self.task, self.recipe, self.seed, self.split)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "network": self.network.to_dict(),
            "task": self.task.to_dict(),
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            "split": self.split,
        }

    @classmethod
    def from_dict(cls, value: object) -> Job:
        """Read `to_dict`'s form.

        Raises:
            ValueError: a field is missing, unknown or out of range.
        """
        given = require_fields("job", value, ("network", "task", "recipe", "seed", "split"))
        return cls(
            network_from_dict(given["network"]),
            Task.from_dict(given["task"]),
            Recipe.from_dict(given["recipe"]),
            given["seed"],
            given["split"],
        )
