"""The whole of RC-NAS on real handwritten digits, in minutes: pre-train, meta-train, fine-tune, compare.

    python -m experiments.quickstart            # or: make demo

1. Trains and attacks the meta-training teachers; pre-trains the state encoder (Eq. 10).
2. Meta-trains the agent over teachers × attacks × budgets (Algorithm 1).
3. Fine-tunes it on a task with a teacher, an attack and a budget that meta-training never saw (Algorithm 2);
   gives random search as many evaluations on it, and RobustResNet's rule the same budget.
4. Trains the chosen students and the teacher to the end and attacks them on the test set.

Writes table.md, three figures, the agent's checkpoint and record.json into the run folder.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import tyro
from rich.console import Console

import rcnas_env
from agents.agent import Agent
from agents.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from agents.pretraining import diverse_observations
from agents.random_search import RandomSearch
from agents.scaling_rule import ScalingRule
from agents.state_encoder import StateEncoder, pretrain
from agents.trial import Trial, select
from agents.vpg import VPG, VPGConfig
from experiments.comparison import TEST_ATTACKS, Candidate, Row, compare, headings, markdown, table
from experiments.figures import accuracy_figure, learning_figure, stages_figure
from experiments.progress import progress_bar
from experiments.run_record import RunRecord
from experiments.stopping import ended_by_the_system, stoppable
from experiments.training_engine import training_options
from experiments.wandb_settings import WandbMode, default_mode
from rcnas_env.binomial import standard_error
from rcnas_env.data import DataUnavailableError
from rcnas_env.data.dataset import validate_test_size
from rcnas_env.evaluation.evaluator import Evaluator, make_engine
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.store import open_store
from rcnas_env.presets import teacher_entry
from rcnas_env.task import Task, TaskBuffers
from rcnas_env.training.fit import cpu_threads
from rcnas_env.training.recipe import Recipe
from rcnas_env.validation import require_integer
from rcnas_env.whole_files import write_text

META_TEACHERS = ("WRN-10-1", "WRN-10-2")
META_ATTACKS = ("clean", "fgsm", "pgd-20")
META_BUDGET_SHARES = (0.3, 0.6)
TARGET_TEACHER, TARGET_ATTACK, TARGET_BUDGET_SHARE = "WRN-16-1", "cw-40", 0.4
"""The target task: none of the three is in the meta-training pool."""


QUICK = Recipe(epochs=1, batch_size=24, inner_steps=2, relative_step=0.75, n_eval=128)
"""One epoch of small batches with few inner steps: a fifth of the default recipe's cost, and too little to rank
networks as the default recipe does (docs/performance.md). It shows the machinery at work within minutes."""

FINAL = Recipe(epochs=4, batch_size=64, inner_steps=3, relative_step=0.5, n_eval=128)
"""For the chosen networks."""


@dataclass(frozen=True)
class Quickstart:
    """Settings of the quickstart."""

    out: Path | None = None
    """Run folder; runs/quickstart-DATE-TIME if not given. A folder with a checkpoint is resumed."""
    select: Literal["reward", "accuracy"] = "accuracy"
    """Which tried student is chosen, by its figures on the eval set: the highest reward, or the most accurate
    within the budget."""
    fresh: bool = False
    """Ignore what earlier runs left in the store; nothing of it is read."""
    seed: int = 0
    """Of everything: weights, tasks, actions, attacks."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Worker processes of one thread each; 0 trains in this process."""
    engine: Literal["trained", "ray", "analytic"] = "trained"
    """What evaluates networks: real training, in processes of its own or on a Ray cluster (docs/scaling.md), or a
    formula (seconds, for a look at the machinery and for tests)."""
    ray_address: str | None = None
    """Of the Ray cluster; if not given, $RAY_ADDRESS, else one is started in this process."""
    time_limit: float | None = None
    """Seconds that one training or attack may take; it counts as diverged then. Needs workers (docs/faults.md)."""
    device: str = "auto"
    """"auto" (a GPU where there is one), "cpu", "cuda:0", …"""
    meta_iterations: int = 1
    """M of Algorithm 1 (paper: 100); every iteration is one episode of T = 5 steps in each of meta_envs."""
    meta_envs: int = 2
    """Episodes side by side, a task of each a step."""
    evaluations: int = 6
    """Students that fine-tuning may try on the target task, and random search too (paper: 10 iterations)."""
    search_envs: int = 2
    """Students tried side by side on the target task; also those behind each gradient step of fine-tuning."""
    learning_rate: float = 0.005
    """Of the policy's Adam."""
    pretrain_steps: int = 300
    """Optimizer steps of the state encoder's pre-training."""
    recipe: Recipe = field(default_factory=lambda: QUICK)
    """How teachers and students are trained in the search (paper: 5 epochs)."""
    final_recipe: Recipe = field(default_factory=lambda: FINAL)
    """How the chosen networks are trained to the end."""
    autoattack_images: int = 24
    """Test images that AutoAttack, which takes most of the time, is run on; the other attacks take all."""
    wandb: WandbMode = field(default_factory=default_mode)
    """Whether wandb gets the results too; what WANDB_MODE asks for, else not."""


def meta_buffers() -> TaskBuffers:
    """The meta-training pool: two teachers × three attacks × two budgets."""
    teachers = tuple(teacher_entry(name, "digits", META_BUDGET_SHARES) for name in META_TEACHERS)
    return TaskBuffers(("digits",), META_ATTACKS, teachers)


def target_task() -> Task:
    """The task that meta-training never saw."""
    entry = teacher_entry(TARGET_TEACHER, "digits", (TARGET_BUDGET_SHARE,))
    return Task("digits", TARGET_ATTACK, TARGET_TEACHER, entry.budgets[0])  # type: ignore[arg-type]


def pretrain_encoder(config: Quickstart, evaluator: Evaluator) -> StateEncoder:
    """Train and attack the meta-training teachers, then pre-train the state encoder on diverse tasks."""
    tasks = {(task.attack, task.teacher): task for task in meta_buffers().base_tasks()}
    jobs = [Job(task.teacher, task, config.recipe, config.seed) for task in tasks.values()]
    with progress_bar("teachers", len(jobs)) as bar:
        evaluations = evaluator.evaluate(jobs, lambda job, evaluation: bar.advance())
    observations = diverse_observations([job.task.teacher for job in jobs], evaluations, count=512, seed=config.seed)
    encoder = StateEncoder(config.recipe.n_eval, seed=config.seed)
    with progress_bar("state encoder", config.pretrain_steps) as bar:
        pretrain(
            encoder,
            observations,
            config.pretrain_steps,
            seed=config.seed,
            on_step=lambda loss: bar.advance(note=f"loss {loss:.4f}"),
        )
    return encoder


def meta_train(config: Quickstart, evaluator: Evaluator, folder: Path) -> tuple[VPG, list[float]]:
    """Algorithm 1, with a checkpoint after every iteration; goes on from one that is there.

    Returns:
        (agent, reward of each student tried).

    Raises:
        ValueError: the folder holds a run with other settings.
    """
    settings = {
        "seed": config.seed,
        "learning_rate": config.learning_rate,
        "meta_envs": config.meta_envs,
        "meta_iterations": config.meta_iterations,
        "pretrain_steps": config.pretrain_steps,
        "engine": "analytic" if config.engine == "analytic" else "trained",  # Ray's results are the trained engine's
        "recipe": config.recipe.to_dict(),
    }
    checkpoint = folder / "agent"
    if has_checkpoint(checkpoint):
        agent, extra = load_checkpoint(checkpoint)
        if extra["settings"] != settings:
            raise ValueError(f"out must be a new folder for settings {settings}, got a run of {extra['settings']}")
        rewards: list[float] = list(extra["rewards"])
    else:
        learner = VPGConfig(learning_rate=config.learning_rate, update="step", baseline="running")
        agent = VPG(pretrain_encoder(config, evaluator), learner, config.seed)
        rewards = []
    steps = config.meta_iterations * config.meta_envs * rcnas_env.META_EPISODE_STEPS
    with progress_bar("meta-training", steps, done=len(rewards)) as bar:
        envs = gym.make_vec(
            "RCNAS-v0",
            num_envs=config.meta_envs,
            tasks=meta_buffers(),
            recipe=config.recipe,
            engine=evaluator,
            annealing_steps=steps,
            training_seed=config.seed,
        )
        while agent.iteration < config.meta_iterations:
            report = agent.step(envs, on_trial=lambda trial: bar.advance())
            rewards.extend(trial.reward for trial in report.trials)
            save_checkpoint(agent, checkpoint, {"rewards": rewards, "settings": settings})
    return agent, rewards


def search(config: Quickstart, agent: Agent, evaluator: Evaluator, task: Task, evaluations: int) -> list[Trial]:
    """Let `agent` try `evaluations` students on `task`: T = 1, over-budget students at once at −1 (ε = 0)."""
    envs = gym.make_vec(
        "RCNAS-v0",
        num_envs=config.search_envs,
        tasks=task,
        recipe=config.recipe,
        engine=evaluator,
        annealing_steps=0,
        max_episode_steps=1,
        training_seed=config.seed,
    )
    with progress_bar(f"{agent.name} on the target task", evaluations) as bar:
        trials = agent.search(envs, evaluations, lambda trial: bar.advance())
    return trials


def final_comparison(config: Quickstart, evaluator: Evaluator, task: Task, trials: dict[str, list[Trial]]) -> list[Row]:
    """Train the teacher and each agent's choice to the end; test them."""
    candidates = [Candidate(f"teacher {TARGET_TEACHER}", task.teacher, None)]
    for name, tried in trials.items():
        candidates.append(Candidate(name, select(tried, config.select).student, len(tried)))
    count = len(candidates) * len(TEST_ATTACKS)
    with progress_bar("final training and attacks", count) as bar:
        return compare(
            candidates,
            task,
            config.final_recipe,
            config.seed,
            evaluator,
            config.autoattack_images,
            lambda job, evaluation: bar.advance(),
        )


def verdict(rows: Sequence[Row], agent: str, rivals: Sequence[str]) -> str:
    """Say in words whether the agent's network beats its rivals' under the target attack and AutoAttack."""
    by_name = {row.name: row for row in rows}
    parts = []
    for rival in rivals:
        for attack in (TARGET_ATTACK, "autoattack"):
            ours, theirs = by_name[agent].accuracies[attack], by_name[rival].accuracies[attack]
            images = by_name[agent].images[attack]
            error = math.hypot(standard_error(ours, images), standard_error(theirs, images))
            outcome = "wins against" if ours > theirs else "loses to" if ours < theirs else "ties with"
            clear = "" if abs(ours - theirs) > error else " (within one standard error)"
            parts.append(f"{agent} {outcome} {rival} under {attack} by {100 * abs(ours - theirs):.1f} points{clear}")
    over = [name for name in (agent, *rivals) if not by_name[name].within_budget]
    return ".\n".join([*parts, *(f"{name} found no network within the budget" for name in over)]) + "."


def new_folder() -> Path:
    """A run folder by date and time."""
    return Path("runs") / f"quickstart-{time.strftime('%Y%m%d-%H%M%S')}"


def run(config: Quickstart) -> Path:
    """The whole job; returns the run folder."""
    for name, least in {"evaluations": 1, "search_envs": 1, "autoattack_images": 1}.items():
        require_integer(name, getattr(config, name), least)
    n_eval = config.final_recipe.n_eval
    validate_test_size("autoattack_images", target_task().dataset, config.autoattack_images, n_eval)
    validate_test_size("final_recipe.n_test", target_task().dataset, config.final_recipe.n_test, n_eval)
    console = Console()
    folder = config.out or new_folder()
    record = RunRecord("quickstart", folder, asdict(config))
    store = open_store(folder / "store" if config.fresh else "default")
    options: dict[str, Any] = {}
    if config.engine != "analytic":
        options = training_options(config.engine, config.workers, config.device, config.ray_address, config.time_limit)
    evaluator = make_engine(config.engine, store, **options)
    task = target_task()
    resumed = has_checkpoint(folder / "agent")
    try:
        agent, rewards = meta_train(config, evaluator, folder)
        record.phase("meta-training")
        searches: list[tuple[Agent, int]] = [
            (agent, config.evaluations),
            (RandomSearch(task, config.seed), config.evaluations),
            (ScalingRule(task), 1),
        ]
        trials = {a.name: search(config, a, evaluator, task, count) for a, count in searches}
        record.phase("search on the target task")
        rows = final_comparison(config, evaluator, task, trials)
        record.phase("final training and attacks")
    finally:
        evaluator.close()
    title = f"digits, test accuracy in %; budget {task.budget:,.0f} MACs; chosen by eval {config.select}"
    console.print(table(rows, title))
    console.print("Test images: " + ", ".join(headings(rows)) + ".")
    words = verdict(rows, agent.name, [name for name in trials if name != agent.name])
    console.print(f"{words}\nBesides, {agent.name} was meta-trained on {len(rewards)} students of other tasks.")
    write_text(folder / "table.md", f"{title}\n\n{markdown(rows)}\n{words}\n")
    _figures(folder, task, rewards, trials, rows)
    record.results = {
        "task": task.to_dict(),
        "rows": [row.to_dict() for row in rows],
        "verdict": words,
        "meta_rewards": rewards,
        "resumed": resumed,
        "trials": {name: [trial.to_dict() for trial in tried] for name, tried in trials.items()},
    }
    record.phase("table and figures")
    record.finish()
    record.log_to_wandb(config.wandb)
    console.print(f"Table, figures, checkpoint and record: {folder} ({sum(record.seconds.values()):.0f} s)")
    return folder


def _figures(
    folder: Path, task: Task, rewards: Sequence[float], trials: dict[str, list[Trial]], rows: Sequence[Row]
) -> None:
    students: dict[str, Any] = {row.name: row.network for row in rows[1:]}
    searched = {name: tried for name, tried in trials.items() if name != ScalingRule.name}
    rule = trials[ScalingRule.name][0].reward
    stages_figure(task.teacher, students, folder / "stages.png")
    learning_figure(rewards, searched, folder / "learning.png", rule)
    accuracy_figure(rows, trials, task.budget, folder / "accuracy.png")


def main() -> int:
    """Command line."""
    config = tyro.cli(Quickstart, description=__doc__)
    options: list[str] = []
    if config.out is None:  # it would be another one when the command is given again
        config = replace(config, out=new_folder())
        options = ["--out", str(config.out)]
    kept = "What was trained is in the store, the agent as of its last iteration in the run folder."
    return stoppable(lambda: _main(config, kept, options), "quickstart", kept, options)


def _main(config: Quickstart, kept: str, options: Sequence[str]) -> int:
    try:
        with cpu_threads(1):  # this process only waits for the workers, and its own networks are tiny
            run(config)
    except (ValueError, DataUnavailableError) as error:  # CheckpointError too
        print(f"quickstart: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # DataUnavailableError, which is one, is the command line's
        return ended_by_the_system(error, "quickstart", kept, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
