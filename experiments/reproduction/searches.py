"""Meta-training and fine-tuning of a reproduction, kept in the run folder, so that nothing is searched twice.

    RUN/encoder/HIDDEN.safetensors     state encoders, one for each set of hidden state parts
    RUN/meta/VARIANT/                  meta-trained agents with what they were charged, a checkpoint an iteration
    RUN/searches/KEY.json              what each search tried and found

Every function is one of plain data, so that worker processes do them side by side on one store.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from safetensors.torch import save as save_safetensors

import rcnas_env
from agents.agent import Agent, Envs
from agents.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from agents.pretraining import diverse_observations
from agents.registry import make_agent
from agents.state_encoder import StateEncoder, pretrain
from agents.trial import Trial, select
from agents.vpg import VPG
from experiments.arena_meta import Charge, ChargingEvaluator
from experiments.reproduction.scale import Scale
from experiments.training_engine import TrainingEngine, training_options
from rcnas_env.architecture import NetworkSpec
from rcnas_env.evaluation.evaluator import Evaluator, make_engine
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.store import open_store
from rcnas_env.seeding import derive_seed
from rcnas_env.task import Task, TaskBuffers, TeacherEntry
from rcnas_env.whole_files import write_json, writing
from rcnas_env.wrappers import MaskedVectorState

HIDDEN: Mapping[str, tuple[str, ...]] = {"no-lips": ("lips",), "no-cost": ("cost",)}
"""Parts of the state that a variant does not see (paper section 4.4.3)."""
NOT_META_TRAINED = ("r-nas",)
HARD_PENALTY = ("no-annealing",)
OBSERVATIONS = 512
"""That a state encoder is pre-trained on, as in the quickstart."""


@dataclass(frozen=True)
class SearchKey:
    """A search: which variant, on the task at which of the paper's places, by which seed."""

    variant: str
    place: str
    group: str
    attack: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.variant}_{self.place}_{self.group}_{self.attack}_{self.seed}"

    @classmethod
    def named(cls, name: str) -> SearchKey:
        """The search of a `name`; none of its parts has an underscore.

        Raises:
            ValueError: it is none.
        """
        parts = name.split("_")
        if len(parts) != 5 or not parts[4].isdecimal():
            raise ValueError(f"search must be named VARIANT_PLACE_GROUP_ATTACK_SEED, got {name!r}")
        variant, place, group, attack, seed = parts
        return cls(variant, place, group, attack, int(seed))


@dataclass(frozen=True)
class Found:
    """What a search tried and found.

    student: the most accurate of those within the budget, by the eval set.
    charge: distinct evaluations of the search and their seconds of one worker, whether or not the store had them.
    """

    key: SearchKey
    task: Task
    trials: tuple[Trial, ...]
    student: NetworkSpec
    charge: Charge

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, with the fields that a report reads."""
        return {
            "label": f"{self.key.variant}, {self.task.dataset}, {self.key.group}, {self.key.attack}",
            "key": asdict(self.key),
            "task": self.task.to_dict(),
            "seed": self.key.seed,
            "evaluations": self.charge.evaluations,
            "seconds": self.charge.seconds,
            "student": self.student.to_dict(),
            "trials": [trial.to_dict() for trial in self.trials],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Found:
        """Read `to_dict`'s form."""
        trials = (Trial(**{**each, "student": NetworkSpec.from_dict(each["student"])}) for each in value["trials"])
        return cls(
            SearchKey(**value["key"]),
            Task.from_dict(value["task"]),
            tuple(trials),
            NetworkSpec.from_dict(value["student"]),
            Charge(value["evaluations"], value["seconds"]),
        )


@dataclass(frozen=True)
class SearchSettings:
    """What decides a reproduction's searches, apart from their keys.

    agent: "vpg" (the paper's) or "vpg+".
    seed: of encoders, meta-trainings and all trainings in the search; a search adds its own.
    ray_address, time_limit: of the engine, as for `training_options`. Results do not depend on the address; what
        exceeds the limit fails, and a search or final figure with a failure in it is not kept.
    """

    scale: Scale
    folder: Path
    agent: str = "vpg"
    seed: int = 0
    store: str = "default"
    device: str = "auto"
    agent_settings: Mapping[str, Any] = field(default_factory=dict)
    ray_address: str | None = None
    time_limit: float | None = None

    def make_evaluator(self, workers: int = 0) -> Evaluator:
        """The engine, working in this process; with `workers`, on a cluster, or for a time limit, in others."""
        engine: TrainingEngine = "trained" if self.ray_address is None else "ray"
        most = max(workers, 0 if self.time_limit is None else 1)
        options = training_options(engine, most, self.device, self.ray_address, self.time_limit)
        return make_engine(engine, open_store(self.store), **options)


def meta_places(scale: Scale, missing: Sequence[str] = ()) -> tuple[str, ...]:
    """Where agents are meta-trained: the scale's places, or where the data sets of all these are missing, the rest."""
    here = tuple(place for place, dataset in scale.datasets.items() if dataset not in missing)
    return tuple(place for place in scale.meta_places if place in here) or here


def meta_buffers(scale: Scale, missing: tuple[str, ...] = ()) -> TaskBuffers:
    """Meta-training's data, attack and architecture buffers (Algorithm 1); data sets in `missing` are left out."""
    places = meta_places(scale, missing)
    attacks = tuple(scale.search_attack(attack) for attack in scale.meta_attacks)
    entries = []
    for group in scale.meta_groups:
        budgets = tuple(scale.task(place, group, "clean").budget for place in places)
        entries.append(TeacherEntry(scale.groups[group].teacher, tuple(dict.fromkeys(budgets))))
    return TaskBuffers(tuple(dict.fromkeys(scale.datasets[place] for place in places)), attacks, tuple(entries))


def teacher_jobs(settings: SearchSettings, buffers: TaskBuffers) -> list[Job]:
    """The meta-training teachers under each attack; the encoder is pre-trained on what they measure."""
    tasks = {(task.dataset, task.attack, task.teacher): task for task in buffers.base_tasks()}
    recipe = settings.scale.search_recipe
    return [Job(task.teacher, task, recipe, settings.seed) for task in tasks.values()]


def encoder_of(settings: SearchSettings, variant: str, missing: tuple[str, ...] = ()) -> StateEncoder:
    """The state encoder of a variant, pre-trained by Eq. 10 the first time and read from the run folder later."""
    scale, hidden = settings.scale, HIDDEN.get(variant, ())
    path = settings.folder / "encoder" / f"{'-'.join(hidden) or 'none'}.safetensors"
    if path.exists():
        encoder = StateEncoder(scale.search_recipe.n_eval)
        encoder.load_state_dict(load_file(path))
        return encoder.requires_grad_(False)
    encoder = StateEncoder(scale.search_recipe.n_eval, seed=derive_seed(settings.seed, "encoder"))
    jobs = teacher_jobs(settings, meta_buffers(scale, missing))
    evaluator = settings.make_evaluator()
    try:
        found = evaluator.evaluate(jobs)
    finally:
        evaluator.close()
    seed = derive_seed(settings.seed, "pre-training")
    seen: dict[str, NDArray[Any]] = diverse_observations([job.task.teacher for job in jobs], found, OBSERVATIONS, seed)
    for part in hidden:
        seen[part] = np.zeros_like(seen[part])
    pretrain(encoder, seen, scale.pretrain_steps, seed=seed)
    with writing(path) as temporary:
        weights = {name: value.contiguous() for name, value in encoder.state_dict().items()}
        temporary.write_bytes(save_safetensors(weights))
    return encoder


def meta_train(settings: SearchSettings, variant: str, missing: tuple[str, ...] = ()) -> None:
    """Meta-train a variant's agent (Algorithm 1), with a checkpoint after every iteration; goes on from one there.

    All of an iteration derives from (seed, iteration), so that one that was interrupted ends as it would have.
    """
    scale, path = settings.scale, settings.folder / "meta" / variant
    if has_checkpoint(path):
        agent, extra = load_checkpoint(path)
        seconds = dict(extra["seconds"])
    else:
        agent = _new_agent(settings, variant, derive_seed(settings.seed, variant, "meta-training"), missing)
        seconds = {}
    if agent.iteration >= scale.meta_iterations:
        return
    charging = ChargingEvaluator(settings.make_evaluator())
    charging.seconds |= seconds
    try:
        envs = _environments(
            settings,
            variant,
            charging,
            tasks=meta_buffers(scale, missing),
            num_envs=scale.meta_envs,
            recipe=scale.search_recipe,
            annealing_steps=scale.meta_iterations * scale.meta_envs * rcnas_env.META_EPISODE_STEPS,
        )
        while agent.iteration < scale.meta_iterations:
            agent.step(envs)
            save_checkpoint(agent, path, {"seconds": charging.seconds})
    finally:
        charging.engine.close()


def meta_charge(folder: Path, variant: str) -> Charge:
    """What a variant's meta-training was charged: distinct evaluations and their seconds of one worker."""
    _, extra = load_checkpoint(folder / "meta" / variant)
    return Charge(len(extra["seconds"]), sum(extra["seconds"].values()))


def search(settings: SearchSettings, key: SearchKey, missing: tuple[str, ...] = ()) -> Found:
    """Fine-tune on the key's task (Algorithm 2: T = 1), or read what an earlier call found; over-budget students are
    −1 at once (ε = 0). Where an evaluation failed (docs/faults.md) what was found is not kept for a later call.
    """
    known = read_search(settings.folder, key)
    if known is not None:
        return known
    scale = settings.scale
    task = scale.task(key.place, key.group, scale.search_attack(key.attack))
    charging = ChargingEvaluator(settings.make_evaluator())
    try:
        envs = _environments(
            settings,
            key.variant,
            charging,
            tasks=task,
            num_envs=scale.search_envs,
            recipe=scale.recipes(task.dataset)[0],
            annealing_steps=0,
            max_episode_steps=1,
        )
        trials = _agent(settings, key, missing).search(envs, scale.fine_tune_evaluations)
    finally:
        charging.engine.close()
    found = Found(key, task, tuple(trials), select(trials, "accuracy").student, charging.charge())
    if charging.failed:
        text = f"search {key.name} had {len(charging.failed)} evaluations that failed (docs/faults.md) and is not kept"
        print(f"reproduce: {text}; the same command tries again", file=sys.stderr)
    else:
        write_json(_search_path(settings.folder, key), found.to_dict())
    return found


def read_search(folder: Path, key: SearchKey) -> Found | None:
    """What a search found that the run folder has; None if it has none."""
    path = _search_path(folder, key)
    return Found.from_dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def _search_path(folder: Path, key: SearchKey) -> Path:
    return folder / "searches" / f"{key.name}.json"


def _environments(settings: SearchSettings, variant: str, charging: ChargingEvaluator, **options: Any) -> Envs:
    penalty = "hard" if variant in HARD_PENALTY else "annealed"
    envs = gym.make_vec("RCNAS-v0", engine=charging, training_seed=settings.seed, penalty=penalty, **options)
    hidden = HIDDEN.get(variant, ())
    return MaskedVectorState(envs, hidden) if hidden else envs


def _new_agent(settings: SearchSettings, variant: str, seed: int, missing: tuple[str, ...]) -> VPG:
    scale = settings.scale
    first = scale.task(meta_places(scale, missing)[0], scale.meta_groups[0], "clean")
    encoder = encoder_of(settings, variant, missing)
    agent = make_agent(settings.agent, first, seed, encoder, **settings.agent_settings)
    if not isinstance(agent, VPG):
        raise ValueError(f'agent must be one that is meta-trained, "vpg" or "vpg+", got {settings.agent!r}')
    return agent


def _agent(settings: SearchSettings, key: SearchKey, missing: tuple[str, ...]) -> Agent:
    """The agent before the search: meta-trained, or new; its own draws from here on are the key's."""
    if key.variant in NOT_META_TRAINED:
        return _new_agent(settings, key.variant, derive_seed(settings.seed, key.name), missing)
    agent, _ = load_checkpoint(settings.folder / "meta" / key.variant)
    agent.seed = derive_seed(settings.seed, key.name)
    return agent
