"""What some agents have before the search: a pre-trained state encoder, and meta-training (paper section 3.3).

Made once for each meta-seed, kept in the run folder, and charged to those who start from it: every distinct
evaluation that the engine was asked for, of students and of teachers.

    encoders/SEED.safetensors        a state encoder, with its charge in the header
    meta/LABEL/SEED/                 a meta-trained agent (agents.checkpoint), with its charge
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import gymnasium as gym
from safetensors import safe_open
from safetensors.torch import save as save_safetensors

import rcnas_env
from agents.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from agents.pretraining import diverse_observations
from agents.registry import make_agent
from agents.state_encoder import StateEncoder, pretrain
from agents.vpg import VPG
from experiments.arena_landscape import seconds_of
from experiments.arena_roster import Entry
from experiments.arena_roster import entry as find_entry
from experiments.arena_settings import ArenaSettings
from experiments.arena_tasks import held_out_task, meta_buffers
from rcnas_env.evaluation.evaluator import Evaluator, OnDone
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.seeding import derive_seed
from rcnas_env.whole_files import writing

OBSERVATIONS = 512
"""That an encoder is pre-trained on, as in the quickstart."""


@dataclass(frozen=True)
class Charge:
    """What was spent before a search: distinct evaluations, and their simulated (or measured) seconds.

    A training that serves evaluations under several attacks, as a teacher's does, counts in each of them.
    """

    evaluations: int = 0
    seconds: float = 0.0


class ChargingEvaluator:
    """An engine that takes note of the distinct jobs that it is asked for."""

    def __init__(self, engine: Evaluator) -> None:
        self.engine = engine
        self.seconds: dict[str, float] = {}
        self.failed: dict[str, str] = {}
        """Key of a job that could not be done (docs/faults.md) → why."""

    def evaluate(self, jobs: Sequence[Job], on_done: OnDone | None = None) -> list[Evaluation]:
        """See `Evaluator`."""
        found = self.engine.evaluate(jobs, on_done)
        for job, evaluation in zip(jobs, found, strict=True):
            self.seconds[job.key] = seconds_of(evaluation)
            if "failed" in evaluation.provenance:
                self.failed[job.key] = evaluation.provenance["failed"]
        return found

    def close(self) -> None:
        """The engine is closed by whoever made it."""

    def charge(self) -> Charge:
        """What was asked for so far."""
        return Charge(len(self.seconds), sum(self.seconds.values()))


def pretrain_encoder(settings: ArenaSettings, folder: Path, meta_seed: int) -> None:
    """Pre-train the state encoder of `meta_seed` on the attacked meta-training teachers (Eq. 10), and keep it."""
    path = encoder_file(folder, meta_seed)
    if path.exists():
        return
    charging = ChargingEvaluator(settings.make_evaluator())
    encoder = StateEncoder(settings.recipe.n_eval, seed=derive_seed(meta_seed, "encoder"))
    try:
        jobs = teacher_jobs(settings, meta_seed)
        found = charging.evaluate(jobs)
    finally:
        charging.engine.close()
    seed = derive_seed(meta_seed, "pre-training")
    observations = diverse_observations([job.task.teacher for job in jobs], found, OBSERVATIONS, seed)
    pretrain(encoder, observations, settings.pretrain_steps, seed=seed)
    tensors = {name: value.contiguous() for name, value in encoder.state_dict().items()}
    with writing(path) as temporary:
        temporary.write_bytes(save_safetensors(tensors, {"charge": json.dumps(asdict(charging.charge()))}))


def load_encoder(settings: ArenaSettings, folder: Path, meta_seed: int) -> tuple[StateEncoder, Charge]:
    """The encoder that `pretrain_encoder` left, and its charge."""
    with safe_open(encoder_file(folder, meta_seed), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        charge = Charge(**json.loads(file.metadata()["charge"]))
    encoder = StateEncoder(settings.recipe.n_eval)
    encoder.load_state_dict(tensors)
    return encoder.requires_grad_(False), charge


def meta_train(settings: ArenaSettings, folder: Path, learner: tuple[str, int]) -> None:
    """Meta-train an agent on the training tasks (Algorithm 1), and keep it.

    All or nothing: where this is killed it is done again from the start, on what the engine's store has by then, and
    comes to the same agent and the same charge.

    Args:
        settings: of the comparison.
        folder: of the comparison; the state encoder is read from it.
        learner: label of the roster's entry, and meta-seed.

    Raises:
        ValueError: the agent cannot be meta-trained.
    """
    label, meta_seed = learner
    entry, path = find_entry(label), meta_folder(folder, label, meta_seed)
    if has_checkpoint(path):
        return
    encoder, _ = load_encoder(settings, folder, meta_seed)
    seed = derive_seed(meta_seed, entry.label, "meta-training")
    agent = make_agent(entry.agent, held_out_task(settings.tasks[0]), seed, encoder, **entry.settings)
    if not isinstance(agent, VPG):
        raise ValueError(f"agents that are meta-trained must have VPG's learn and checkpoints, got {entry.agent!r}")
    charging = ChargingEvaluator(settings.make_evaluator())
    try:
        charging.evaluate(teacher_jobs(settings, meta_seed))  # the encoder's; those met again cost nothing more
        envs = gym.make_vec(
            "RCNAS-v0",
            num_envs=settings.meta_envs,
            tasks=meta_buffers(),
            recipe=settings.recipe,
            engine=charging,
            annealing_steps=settings.meta_iterations * settings.meta_envs * rcnas_env.META_EPISODE_STEPS,
            training_seed=meta_seed,
            compression_emphasis=settings.compression_emphasis,
        )
        agent.learn(envs, settings.meta_iterations)
    finally:
        charging.engine.close()
    save_checkpoint(agent, path, {"charge": asdict(charging.charge())})


def load_meta_trained(settings: ArenaSettings, folder: Path, entry: Entry, meta_seed: int) -> tuple[VPG, Charge]:
    """The agent that `meta_train` left, and its charge, its encoder's included.

    Raises:
        CheckpointError: there is none that can be read.
        TypeError: the checkpoint gives back an agent of another class.
    """
    agent, extra = load_checkpoint(meta_folder(folder, entry.label, meta_seed))
    encoder, _ = load_encoder(settings, folder, meta_seed)
    expected = type(make_agent(entry.agent, held_out_task(settings.tasks[0]), 0, encoder, **entry.settings))
    if type(agent) is not expected:
        raise TypeError(f"agents.checkpoint must load a {expected.__name__}, got a {type(agent).__name__}")
    return agent, Charge(**extra["charge"])


def teacher_jobs(settings: ArenaSettings, meta_seed: int) -> list[Job]:
    """The meta-training teachers under each attack, trained by `meta_seed`."""
    tasks = {(task.attack, task.teacher): task for task in meta_buffers().base_tasks()}
    return [Job(task.teacher, task, settings.recipe, meta_seed) for task in tasks.values()]


def meta_folder(folder: Path, label: str, meta_seed: int) -> Path:
    """Where the meta-trained agent of the entry called `label` is kept."""
    return folder / "meta" / label / str(meta_seed)


def encoder_file(folder: Path, meta_seed: int) -> Path:
    """Where the state encoder of `meta_seed` is kept."""
    return folder / "encoders" / f"{meta_seed}.safetensors"
