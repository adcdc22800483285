"""What decides the result of every run in the arena: the engine, its options, and how much everyone is granted."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from experiments.arena_tasks import held_out_task, known_tasks
from experiments.training_engine import TrainingEngine, training_options
from rcnas_env.evaluation.evaluator import Evaluator, make_engine
from rcnas_env.evaluation.store import open_store
from rcnas_env.presets import preset_entry
from rcnas_env.tabular.table import load_table
from rcnas_env.training.recipe import Recipe
from rcnas_env.validation import require_choice, require_integer, require_number

ENGINES = ("tabular", "analytic", "trained")


@dataclass(frozen=True)
class ArenaSettings:
    """The same for all agents of a comparison.

    Raises:
        ValueError: a field is out of range.
    """

    engine: Literal["tabular", "analytic", "trained"] = "tabular"
    """What evaluates students: the tabular twin, a formula (for tests), or real training."""
    table: str = "digits"
    """Of the tabular engine: a table's name or path."""
    noise: float = 0.03
    """Of the analytic engine: standard deviation of an accuracy; 0.03 is the binomial one of 0.4 on 256 images."""
    evaluations: int = 100
    """Students that each run may try on its task."""
    tasks: tuple[str, ...] = known_tasks()
    """Held-out tasks by name: the budget's share of the teacher's MACs (experiments/arena_tasks.py)."""
    envs: int = 2
    """Students tried side by side, by every agent; also those behind each of a policy's gradient steps."""
    meta_iterations: int = 100
    """M of Algorithm 1 (paper: 100); every iteration is one episode of T = 5 steps in each of meta_envs."""
    meta_envs: int = 4
    """Episodes of meta-training side by side; `vpg+` compares students within groups of four."""
    meta_seeds: int = 5
    """Meta-trainings of each meta-trained agent; a run starts from that of its seed modulo this number."""
    pretrain_steps: int = 300
    """Optimizer steps of each state encoder's pre-training (Eq. 10)."""
    compression_emphasis: float = 1.0
    """λ of the reward: 1 is Eq. 4, 0 rewards robust accuracy within the budget alone."""
    judge_seeds: int = 1
    """With real training: trainings by seeds of their own that measure what an incumbent is worth."""
    recipe: Recipe = field(default_factory=lambda: preset_entry("digits").recipe)
    """How networks are trained; a table holds one recipe only."""
    store: str = "default"
    """Of real training: the store's folder."""
    device: str = "auto"
    """Of real training: "auto" (a GPU where there is one), "cpu", "cuda:0", …"""
    ray_address: str | None = None
    """Of real training: HOST:PORT of a Ray cluster that trains in place of this machine (docs/scaling.md)."""
    time_limit: float | None = None
    """Of real training: seconds that one training or attack may take; it counts as diverged then (docs/faults.md)."""

    def __post_init__(self) -> None:
        require_choice("engine", self.engine, ENGINES)
        require_number("noise", self.noise, minimum=0.0)
        require_number("compression_emphasis", self.compression_emphasis, minimum=0.0, maximum=1.0)
        for name in ("evaluations", "envs", "meta_iterations", "meta_envs", "meta_seeds", "judge_seeds"):
            require_integer(name, getattr(self, name), 1)
        require_integer("pretrain_steps", self.pretrain_steps, 0)
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks must be one name or more, none of them twice, got {self.tasks!r}")
        for name in self.tasks:
            held_out_task(name)

    def alone(self) -> ArenaSettings:
        """These settings without what a subclass adds; what worker processes are sent."""
        return ArenaSettings(**{each.name: getattr(self, each.name) for each in fields(ArenaSettings)})

    def deciding(self) -> dict[str, Any]:
        """The fields on which results depend, as JSON values: runs of two comparisons mix only if these are equal."""
        left_out = {"store", "device", "ray_address", "time_limit"} | {
            "tabular": {"noise", "judge_seeds"},
            "analytic": {"table", "judge_seeds"},
            "trained": {"table", "noise"},
        }[self.engine]
        names = [each.name for each in fields(ArenaSettings) if each.name not in left_out]
        return {
            **{name: getattr(self, name) for name in names},
            "tasks": list(self.tasks),
            "recipe": self.recipe.to_dict(),
            **({"table_sha256": load_table(self.table).card["sha256"]} if self.engine == "tabular" else {}),
        }

    def make_evaluator(self) -> Evaluator:
        """The engine, working in this process; real training on the cluster, or in one process more for a time limit.

        Raises:
            ValueError: the table is unknown or damaged, or the engine does not take its options.
        """
        if self.engine == "trained":
            engine: TrainingEngine = "trained" if self.ray_address is None else "ray"
            workers = self.envs if engine == "ray" else 0 if self.time_limit is None else 1
            options = training_options(engine, workers, self.device, self.ray_address, self.time_limit)
            return make_engine(engine, open_store(self.store), **options)
        options = {"table": self.table} if self.engine == "tabular" else {"noise": self.noise}
        return make_engine(self.engine, open_store(None), **options)
