"""Settings of `experiments.search`, and the recipes that a data set's networks are trained by unless said otherwise."""

from __future__ import annotations

import hashlib
import json
import os
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from experiments.export import Format
from experiments.training_engine import TrainingEngine
from experiments.wandb_settings import WandbMode, default_mode
from rcnas_env.presets import known_presets, preset_entry
from rcnas_env.training.recipe import Recipe


def search_recipe(dataset: str) -> Recipe:
    """How students are trained in a search on `dataset`: its preset's recipe, the paper's where it has none."""
    return preset_entry(dataset if dataset in known_presets() else "paper").recipe


def final_recipe(dataset: str) -> Recipe:
    """How the chosen networks are trained: four times the epochs of a preset's search, on all images; 100 epochs (paper
    appendix D) where the data set has no preset.
    """
    recipe = search_recipe(dataset)
    return recipe.but(epochs=4 * recipe.epochs if dataset in known_presets() else 100, n_train=None)


@dataclass(frozen=True)
class Search:
    """Settings of a search."""

    teacher: str
    """The network that is to be compressed: a name such as WRN-28-10, or the JSON file of a spec."""
    dataset: str
    """A registered data set (docs/data.md), or imagefolder:PATH@SIZE for your own images."""
    attack: str
    """The attack that the student has to withstand: any of `python -m experiments.catalog`."""
    budget: str
    """Multiply-accumulates an image: 660000, 660k, 3G, or a share of the teacher's: 40%."""
    epsilon: float | None = None
    """L_inf radius of the attack in [0, 1] image units; the data set's if not given."""
    attack_source: Literal["student", "teacher"] = "student"
    """Attack the student itself (white box), or transfer its teacher's adversarial images (Algorithm 2)."""
    agent: str | None = None
    """Who searches, by its name in agents/registry.py; that of --meta, or vpg+, if not given."""
    meta: Path | None = None
    """Checkpoint of a meta-trained agent to start from, such as RUN/agent of a quickstart."""
    evaluations: int = 8
    """Students that are tried (paper: 10 iterations of fine-tuning)."""
    envs: int = 2
    """Students tried side by side."""
    compression_emphasis: float = 0.0
    """λ of the reward: 0 asks for robust accuracy within the budget, 1 (Eq. 4) for few parameters besides."""
    select: Literal["agent", "accuracy", "reward"] = "agent"
    """Which tried student is chosen, by its figures on the eval set: the agent's own choice, the most accurate within
    the budget, or the highest reward."""
    seed: int = 0
    """Of everything: weights, actions, attacks."""
    recipe: Recipe = field(default_factory=lambda: search_recipe("digits"))
    """How networks are trained in the search. Defaults are those of the data set."""
    final_recipe: Recipe = field(default_factory=lambda: final_recipe("digits"))
    """How the chosen networks are trained to the end. Defaults are those of the data set."""
    slow_attack_images: int | None = 24
    """Test images, class-balanced, of AutoAttack and other slow attacks; clean, FGSM, PGD and CW take all."""
    format: tuple[Format, ...] = ("safetensors",)
    """What the student is delivered as; model.safetensors always is."""
    out: Path | None = None
    """Run folder; if not given, one in runs/ that follows from the other settings."""
    store: str = "default"
    """Folder of the store; "default" for $RCNAS_STORE, else the user's cache."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Worker processes of one thread each; 0 trains in this process."""
    device: str = "auto"
    """"auto" (a GPU where there is one), "cpu", "cuda:0", …"""
    engine: TrainingEngine = "trained"
    """What trains: processes of its own, or a Ray cluster's workers (docs/scaling.md)."""
    ray_address: str | None = None
    """Of the Ray cluster; if not given, $RAY_ADDRESS, else one is started in this process."""
    time_limit: float | None = None
    """Seconds that one training or attack may take; it counts as diverged then. Needs workers (docs/faults.md)."""
    wandb: WandbMode = field(default_factory=default_mode)
    """Whether wandb gets the results too; what WANDB_MODE asks for, else not."""

    @property
    def folder(self) -> Path:
        """The run folder: equal settings have the same."""
        if self.out is not None:
            return self.out
        digest = hashlib.sha256(json.dumps(self.deciding(), sort_keys=True).encode()).hexdigest()
        return Path("runs") / f"search-{digest[:12]}"

    def deciding(self) -> dict[str, Any]:
        """The settings on which the result depends, as JSON values."""
        left_out = ("out", "store", "workers", "device", "format", "engine", "ray_address", "time_limit", "wandb")
        recipes = {"recipe": self.recipe.to_dict(), "final_recipe": self.final_recipe.to_dict()}
        settings = json.loads(json.dumps({**asdict(self), **recipes}, default=str))
        return {name: value for name, value in settings.items() if name not in left_out}


def read_arguments(arguments: Sequence[str], description: str | None) -> Search:
    """The settings that a command line gives; recipes start from those of its data set.

    Args:
        arguments: without the program's name.
        description: for --help.
    """
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--dataset", default="digits")
    dataset = first.parse_known_args(list(arguments))[0].dataset
    required: dict[str, Any] = dict.fromkeys(("teacher", "dataset", "attack", "budget"), tyro.MISSING)
    start = Search(**required, recipe=search_recipe(dataset), final_recipe=final_recipe(dataset))
    return tyro.cli(Search, args=arguments, default=start, description=description)
