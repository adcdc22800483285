"""From a task to a network that can be used: search, final training, attacks on the test set, delivery.

    python -m experiments.search --teacher WRN-16-1 --dataset digits --attack pgd-20 --budget 40%

1. Checks the task, says what will be trained and about how long that takes.
2. Trains and attacks the teacher; lets the agent try students of it within the budget, each trained and attacked.
3. Trains the chosen student, the teacher and RobustResNet's rule to the end; attacks them on the test set.
4. Delivers the student (docs/delivery.md): `rcnas_env.load_student(FOLDER)` loads it.

Writes table.md, record.json and student/ into the run folder. Whatever is trained is kept in the store: the same
command goes on after an interruption.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import gymnasium as gym

import rcnas_env  # noqa: F401  (registers the environments)
from agents.agent import Agent, incumbent_of
from agents.checkpoint import load_checkpoint
from agents.pretraining import diverse_observations
from agents.registry import make_agent
from agents.state_encoder import StateEncoder, pretrain
from agents.trial import Trial, select
from agents.vpg import VPG
from experiments.comparison import Candidate
from experiments.export import deliver, trained_weights
from experiments.finding_reader import read_finding
from experiments.progress import progress_bar
from experiments.run_record import RunRecord
from experiments.search_final import compare_to_the_end, markdown
from experiments.search_plan import Plan, Say, announce, duration, read_plan
from experiments.search_settings import Search, read_arguments
from experiments.stopping import ended_by_the_system, stoppable
from experiments.training_engine import training_options
from rcnas_env.data import DataUnavailableError
from rcnas_env.delivery import MismatchError
from rcnas_env.evaluation.evaluator import Evaluator, make_engine
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import open_store
from rcnas_env.seeding import derive_seed
from rcnas_env.task import Task
from rcnas_env.training.fit import cpu_threads
from rcnas_env.whole_files import write_text

ENCODED = ("vpg", "vpg+")
"""Agents that need a state encoder."""

OBSERVATIONS, PRETRAIN_STEPS = 512, 300
"""Of the state encoder's pre-training, as in the quickstart."""


class NothingFoundError(RuntimeError):
    """No student that was tried is within the budget and trained without diverging."""


def meta_agent(config: Search) -> VPG | None:
    """The agent of --meta; None without it.

    Raises:
        ValueError: it is another agent than --agent, or made for another number of eval images; CheckpointError.
    """
    if config.meta is None:
        return None
    agent, _ = load_checkpoint(config.meta)
    if config.agent not in (None, agent.kind):
        raise ValueError(f"agent must be that of meta, {agent.kind!r}, or not given, got {config.agent!r}")
    if agent.encoder.n_eval != config.recipe.n_eval:
        raise ValueError(
            f"recipe.n_eval must be {agent.encoder.n_eval}, as in the meta-training of {str(config.meta)!r}, "
            f"got {config.recipe.n_eval}"
        )
    return agent


def make_searcher(config: Search, task: Task, teacher: Evaluation) -> Agent:
    """The agent that searches: meta-trained, or new, with a state encoder pre-trained on this teacher where needed."""
    meta = meta_agent(config)
    if meta is not None:
        meta.seed = derive_seed(config.seed, "search")  # its own is meta-training's, the same for every search
        return meta
    name, encoder = config.agent or "vpg+", None
    if name in ENCODED:
        encoder = StateEncoder(config.recipe.n_eval, seed=config.seed)
        observations = diverse_observations([task.teacher], [teacher], OBSERVATIONS, config.seed)
        pretrain(encoder, observations, PRETRAIN_STEPS, seed=config.seed)
    return make_agent(name, task, config.seed, encoder)


def evaluate_teacher(config: Search, plan: Plan, evaluator: Evaluator, say: Say) -> Evaluation:
    """Train and attack the teacher; say what the search takes by that."""
    with progress_bar("teacher", 1) as bar:
        (found,) = evaluator.evaluate([Job(plan.task.teacher, plan.task, plan.search, config.seed)])
        bar.advance()
    spent = found.training_seconds + found.attack_seconds
    lanes = max(1, min(config.workers, config.envs))
    say(
        f"The teacher: {found.robust_accuracy:.1%} on {found.images} eval images, after {duration(spent)} of training "
        f"and attack. {config.evaluations} students like it: {duration(spent * config.evaluations / lanes)}."
    )
    return found


def try_students(config: Search, plan: Plan, agent: Agent, evaluator: Evaluator) -> list[Trial]:
    """Let the agent search: T = 1 (Algorithm 2), over-budget students at once at −1 (ε = 0)."""
    envs = gym.make_vec(
        "RCNAS-v0",
        num_envs=config.envs,
        tasks=plan.task,
        recipe=plan.search,
        engine=evaluator,
        annealing_steps=0,
        max_episode_steps=1,
        training_seed=config.seed,
        compression_emphasis=config.compression_emphasis,
    )
    with progress_bar(f"{agent.name}: students", config.evaluations) as bar:
        return agent.search(envs, config.evaluations, lambda trial: bar.advance(f"reward {trial.reward:+.3f}"))


def choose(config: Search, agent: Agent, trials: Sequence[Trial]) -> Trial:
    """The student that is delivered.

    Raises:
        NothingFoundError: none is within the budget.
    """
    # an accuracy of 0 is left out too: a training that diverged, or failed, has it
    fitting = [trial for trial in trials if trial.within_budget and trial.robust_accuracy]
    if not fitting:
        raise NothingFoundError(
            f"none of {len(trials)} students is within the budget and right on any attacked image: try more "
            "(--evaluations), allow more (--budget), or train longer (--recipe.epochs)"
        )
    chosen = incumbent_of(agent, fitting) if config.select == "agent" else select(fitting, config.select)
    assert chosen is not None
    return chosen


def run(config: Search, say: Say = print) -> Path:
    """The whole job; returns the delivered folder.

    Raises:
        ValueError, DataUnavailableError, ModuleNotFoundError: a setting is wrong, before anything is trained.
        NothingFoundError: no student is within the budget.
        MismatchError: the delivered files do not give the network's outputs.
    """
    plan = read_plan(config)
    meta_agent(config)
    options = training_options(config.engine, config.workers, config.device, config.ray_address, config.time_limit)
    announce(config, plan, say)
    record = RunRecord("search", config.folder, asdict(config))
    store = open_store(config.store)
    evaluator = make_engine(config.engine, store, **options)
    try:
        agent = make_searcher(config, plan.task, evaluate_teacher(config, plan, evaluator, say))
        record.phase("teacher")
        trials = try_students(config, plan, agent, evaluator)
        record.phase("search")
        chosen = choose(config, agent, trials)
        candidates = [
            Candidate(f"teacher {Path(config.teacher).stem}", plan.task.teacher, None),
            Candidate(agent.name, chosen.student, len(trials)),
        ]
        if plan.rule is not None and agent.name != "RobustResNet rule":
            candidates.append(Candidate("RobustResNet rule", plan.rule, 0))
        rows = compare_to_the_end(config, plan, candidates, evaluator)
        record.phase("final training and attacks")
    finally:
        evaluator.close()
    words = markdown(rows, plan.attacks)
    write_text(config.folder / "table.md", words)
    say(f"Test accuracy in % ± one standard error, every attack white box:\n\n{words}")
    record.results = {
        "settings": config.deciding(),
        "task": plan.task.to_dict(),
        "chosen": agent.name,
        "rows": [row.to_dict() for row in rows],
        "trials": [trial.to_dict() for trial in trials],
    }
    record.finish()
    finding = read_finding(config.folder)
    report, weights = trained_weights(finding, store, config.folder, config.device)
    student = deliver(finding, report, weights, config.folder / "student", config.format)
    record.log_to_wandb(config.wandb)  # last: the student is there even if wandb is not
    say(f"Delivered: rcnas_env.load_student({str(student)!r}); table and record are in {config.folder}.")
    return student


def main() -> int:
    """Command line."""
    config = read_arguments(sys.argv[1:], __doc__)
    kept = "What was trained is in the store."
    return stoppable(lambda: _main(config, kept), "search", kept)


def _main(config: Search, kept: str) -> int:
    try:
        with cpu_threads(1):  # this process only waits for the workers, and its own networks are tiny
            run(config)
    except (ValueError, DataUnavailableError, ModuleNotFoundError) as error:
        print(f"search: error: {error}", file=sys.stderr)
        return 2
    except (NothingFoundError, MismatchError) as error:
        print(f"search: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # DataUnavailableError, which is one, is the command line's
        return ended_by_the_system(error, "search", kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
