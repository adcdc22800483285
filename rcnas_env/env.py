"""`RCNAS-v0`: the decision process of RC-NAS (paper section 3.1) as a Gymnasium environment."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rcnas_env import compression, reward
from rcnas_env.architecture import MAX_DEPTH, MAX_PLANES, NetworkSpec
from rcnas_env.cost import cost
from rcnas_env.data.dataset import validate_eval_size
from rcnas_env.evaluation.evaluator import Evaluator, make_engine
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import Store, open_store
from rcnas_env.presets import preset_entry
from rcnas_env.rendering import RENDER_MODES, Renderer
from rcnas_env.step import Effort, Step
from rcnas_env.task import ATTACK_SOURCES, N_STAGE, Task, TaskBuffers, Tasks, TaskSource, make_task_source
from rcnas_env.training.recipe import Recipe, make_recipe
from rcnas_env.validation import require_choice, require_integer, require_number, require_options, shown

Observation = dict[str, NDArray[np.float32]]


class RCNASEnv(gym.Env[Observation, dict[str, NDArray[Any]]]):
    """Compress a teacher network into a student that withstands an adversarial attack within a budget.

    ## One step
    The action compresses the teacher of the current task; the student is trained adversarially from scratch,
    attacked, and scored (Eq. 4); it joins the architecture buffer and may be a later teacher. Then the next
    task is sampled from the data, attack and architecture buffers. Episodes never terminate; they are
    truncated after T steps: 5 as registered (meta-training), `max_episode_steps=1` at `gym.make` for
    fine-tuning.

    ## Action space
    `Dict(keep=Box(0, 1, (3, 2)), switch=MultiBinary((3, 2)))`, a row a stage.

    | part | column 0 | column 1 |
    |---|---|---|
    | keep | share of the teacher's planes that remains | share of its blocks that remains |
    | switch | 1: stride 2 at the stage's first block | 1: robust blocks |

    ## Observation space
    | part | shape | meaning |
    |---|---|---|
    | stages | (3, 4) | a row a stage of the teacher: planes, blocks, down-sampling (0/1), robust blocks (0/1) |
    | lips | (n_eval,) | Eq. 1: the attacked eval images' Lipschitz coefficients on the trained teacher, ≥ 0 |
    | cost | (n_eval,) | the teacher's multiply-accumulates an eval image, in units of 1e9 (constant) |

    ## Reward
    Eq. 4, in `info["reward_terms"]` term by term; see `rcnas_env.reward`. Its weight C(2 − C) favours few
    parameters; `compression_emphasis` λ makes it (1 − λ) + λ·C(2 − C), so that 1 is Eq. 4 and 0 rewards robust
    accuracy within the budget alone. ε anneals from 1 to 0 over `annealing_steps` environment steps, counted
    over episodes until a reset with a seed. Where the reward cannot depend on the student's accuracy (over
    budget at ε = 0 or under the hard penalty) the student is not trained.

    ## Info
    | key | meaning |
    |---|---|
    | task, next_task | the task acted on and the one now observed, as JSON values |
    | student | the student's spec, as JSON values |
    | params, macs | of the student |
    | reward_terms | every term of the reward |
    | robust_accuracy, clean_accuracy, adversarial_loss | of the student; None where not trained |
    | teacher_accuracy | Ã_teacher |
    | teacher_diverged | the teacher's training failed likewise: Ã_teacher is 0, rewards relative to one image |
    | diverged | the student's training did not stay finite, or failed (docs/faults.md): scored as accuracy 0 |
    | evaluated | whether the student was trained or looked up at all |
    | effort | an `Effort`: `from_store`, `seconds` of the step, `evaluation_seconds` when it was computed |

    ## Arguments
    Args:
        preset: name of the preset that gives tasks and recipe where they are not given: "digits", "fashion-mnist",
            "fashion-mnist-14", "paper", or a registered one.
        tasks: a Task (fine-tuning), a list of them, or a TaskSource such as TaskBuffers (meta-training).
        recipe: how every network is trained; a Recipe, or a mapping of its fields. The preset's where it is not given,
            with a warning where the tasks are of other data sets than the preset's.
        engine: "trained", "ray", "analytic", "tabular", or an Evaluator.
        engine_options: of an engine given by name, such as {"workers": 2}.
        store: "default" (a folder that all runs of a user share), a folder, a store, or None (this process).
        penalty: "annealed" (Eq. 4) or "hard" (−1 over budget; the paper's ablation).
        annealing_steps: environment steps over which ε goes from 1 to 0; 0 means ε = 0 from the start.
        compression_emphasis: λ in [0, 1], how much fewer parameters count: 1 (Eq. 4) to 0 (only the budget limits
            size). The known optimum of the engine "analytic" is that of λ = 1.
        attack_source: overrides the tasks': "student" (white box) or "teacher" (transfer, Algorithm 2).
        training_seed: of all trainings and attacks. One seed, so that a student met again is looked up.
        render_mode: "rgb_array", "human" or "ansi".

    Raises:
        ValueError: an argument is unknown or out of range; before any training starts.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 1}

    def __init__(
        self,
        preset: str = "digits",
        tasks: Tasks | None = None,
        recipe: Recipe | Mapping[str, Any] | None = None,
        engine: str | Evaluator = "trained",
        engine_options: Mapping[str, Any] | None = None,
        store: str | os.PathLike[str] | Store | None = "default",
        penalty: str = "annealed",
        annealing_steps: int = 500,
        compression_emphasis: float = 1.0,
        attack_source: str | None = None,
        training_seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        chosen = preset_entry(preset)
        self.recipe = chosen.recipe if recipe is None else make_recipe(recipe)
        self.set_tasks(chosen.buffers() if tasks is None else tasks)
        foreign = sorted({*_datasets(self.tasks)} - {*chosen.buffers().datasets})
        if recipe is None and foreign:
            gym.logger.warn(f"recipe is not given, so that of the preset {preset!r} trains on {', '.join(foreign)} too")
        if attack_source is not None:
            require_choice("attack_source", attack_source, ATTACK_SOURCES)
        self.attack_source = attack_source
        self.penalty = require_choice("penalty", penalty, reward.PENALTIES)
        self.annealing_steps = require_integer("annealing_steps", annealing_steps, 0)
        self.compression_emphasis = require_number(
            "compression_emphasis", compression_emphasis, minimum=0.0, maximum=1.0
        )
        self.training_seed = require_integer("training_seed", training_seed, 0)
        if render_mode is not None:
            require_choice("render_mode", render_mode, RENDER_MODES)
        self.render_mode = render_mode
        self._owns_engine = isinstance(engine, str)
        self.evaluator = make_engine(engine, open_store(store), **require_options("engine_options", engine_options))
        self.action_space: spaces.Dict = compression.action_space(N_STAGE)  # type: ignore[assignment]
        self.observation_space: spaces.Dict = observation_space(self.recipe.n_eval)  # type: ignore[assignment]
        self.steps_taken = 0
        self._task: Task | None = None
        self._teacher: Evaluation | None = None
        self._renderer = Renderer()

    # -- the Gymnasium interface -------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Re-initialise the buffers and sample a task.

        A reset with a seed starts a new run: the annealing starts again too.

        Args:
            seed: of the tasks' sampling.
            options: "task": the Task to start with, in place of a sampled one; "steps_taken": where in the
                annealing to go on, for a run that is resumed or that seeds every episode.
        """
        super().reset(seed=seed)
        teacher_job = self.begin_episode(seed, options)
        observation = self.observe(self._evaluate(teacher_job))
        return observation, {"next_task": self.task.to_dict()}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Compress, train, attack, score; then sample the next task. See the class."""
        step = self.begin_step(action)
        evaluation = self._evaluate(step.job) if step.job else None
        value, info = self.score(step, evaluation)
        observation = self.observe(self._evaluate(self.next_task()))
        info["next_task"] = self.task.to_dict()
        effort: Effort = info["effort"]
        info["effort"] = Effort(effort.from_store, time.perf_counter() - step.started, effort.evaluation_seconds)
        return observation, value, False, False, info

    def render(self) -> Any:
        """Teacher and last student side by side, as the render mode says: an RGB array, text, or a window."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render_mode at gym.make, such as render_mode='rgb_array'")
            return None
        return self._renderer.render(self.render_mode)

    def close(self) -> None:
        """Let go of the engine (one that was given stays open) and of the window."""
        if self._owns_engine:
            self.evaluator.close()
        self._renderer.close()

    def set_tasks(self, tasks: Tasks) -> None:
        """Take all further tasks from `tasks`: a Task, a list of them, or a TaskSource.

        Of `TaskBuffers` a copy is taken: students of one environment are no teachers of another.

        Raises:
            ValueError: it is none of these, or the recipe's eval set does not fit one of their data sets.
        """
        source = make_task_source(tasks)
        for name in _datasets(source):  # what a training would run into only later
            validate_eval_size(name, self.recipe.n_eval)
        self.tasks = replace(source) if isinstance(source, TaskBuffers) else source

    # -- the parts of reset and step, which the vector environment interleaves ---------------------------

    @property
    def task(self) -> Task:
        """The task that the next action applies to.

        Raises:
            gym.error.ResetNeeded: before the first reset.
        """
        if self._task is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        return self._task

    @property
    def annealing(self) -> float:
        """ε of Eq. 4 at this point of the training."""
        return reward.linear_annealing(self.steps_taken, self.annealing_steps)

    def begin_episode(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> Job:
        """Re-initialise the buffers and choose a task; returns the teacher's job, which `observe` needs."""
        options = require_options("options", options)
        if unknown := sorted(set(options) - {"task", "steps_taken"}, key=str):
            gym.logger.warn(f"options of reset that are not 'task' or 'steps_taken' play no part, got {unknown}")
        steps = options.get("steps_taken", self.steps_taken if seed is None else 0)
        steps = require_integer("options['steps_taken']", steps, 0)
        given = options.get("task")
        if given is not None and not isinstance(given, Task):
            raise ValueError(f"options['task'] must be a Task, got {shown(given)}")
        self.steps_taken = steps
        self.tasks.reset()
        return self.next_task(given)

    def next_task(self, given: Task | None = None) -> Job:
        """Sample the next task from the buffers (or take `given`); returns its teacher's job."""
        task = self.tasks.sample(self.np_random) if given is None else given
        self._task = self._with_source(task)
        self._teacher = None  # until `observe`, which an interruption may come before
        return self._job(task.teacher)

    def observe(self, teacher: Evaluation) -> Observation:
        """The observation of the current task, from its teacher's evaluation."""
        self._teacher = teacher
        stages = [(s.planes, s.depth, s.downsample, s.robust) for s in self.task.teacher.stages]
        lips = np.asarray(teacher.lips, np.float32)
        return {
            "stages": np.asarray(stages, np.float32),
            "lips": lips if np.isfinite(lips).all() else np.nan_to_num(lips),
            "cost": np.full(self.recipe.n_eval, teacher.macs / 1e9, np.float32),
        }

    def begin_step(self, action: Any) -> Step:
        """Apply an action to the current task's teacher.

        Raises:
            ValueError: the action is outside the action space; nothing has changed then.
            gym.error.ResetNeeded: before the first reset, or the last reset or step was broken off.
        """
        started = time.perf_counter()
        task = self.task
        if self._teacher is None:
            raise gym.error.ResetNeeded("call reset(): the last reset or step was broken off")
        student = self._student(action)
        needed = reward.depends_on_accuracy(cost(student).macs, task.budget, self.annealing, self.penalty)
        job = self._job(student) if needed else None
        return Step(task, student, job, self.annealing, started)

    def score(self, step: Step, evaluation: Evaluation | None) -> tuple[float, dict[str, Any]]:
        """Reward and info of a step whose student has been evaluated; the student joins the buffer."""
        assert self._teacher is not None
        terms = reward.reward_terms(
            cost(step.student),
            cost(step.task.teacher),
            step.task.budget,
            evaluation.robust_accuracy if evaluation else None,
            self._teacher.robust_accuracy,
            step.annealing,
            self.penalty,
            smallest_accuracy=1 / self.recipe.n_eval,
            compression_emphasis=self.compression_emphasis,
        )
        self.tasks.add_student(step.task, step.student)
        self.steps_taken += 1
        self._renderer.update(step.task, step.student, terms, evaluation)
        if self.render_mode == "human":
            self.render()
        return terms.reward, self._info(step, terms, evaluation)

    def _info(self, step: Step, terms: reward.RewardTerms, evaluation: Evaluation | None) -> dict[str, Any]:
        assert self._teacher is not None
        spent = evaluation.training_seconds + evaluation.attack_seconds if evaluation else 0.0
        effort = Effort(bool(evaluation and evaluation.from_store), time.perf_counter() - step.started, spent)
        return {
            "task": step.task.to_dict(),
            "student": step.student.to_dict(),
            "params": cost(step.student).params,
            "macs": terms.macs,
            "reward_terms": terms.to_dict(),
            "robust_accuracy": evaluation.robust_accuracy if evaluation else None,
            "clean_accuracy": evaluation.clean_accuracy if evaluation else None,
            "adversarial_loss": evaluation.adversarial_loss if evaluation else None,
            "teacher_accuracy": self._teacher.robust_accuracy,
            "teacher_diverged": self._teacher.diverged,
            "diverged": bool(evaluation and evaluation.diverged),
            "evaluated": evaluation is not None,
            "effort": effort,
        }

    def _student(self, action: Any) -> NetworkSpec:
        return compression.compress(self.task.teacher, action)

    def _job(self, network: NetworkSpec) -> Job:
        return Job(network, self.task, self.recipe, self.training_seed)

    def _evaluate(self, job: Job) -> Evaluation:
        return self.evaluator.evaluate([job])[0]

    def _with_source(self, task: Task) -> Task:
        if self.attack_source in (None, task.attack_source):
            return task
        return Task(task.dataset, task.attack, task.teacher, task.budget, task.epsilon, self.attack_source or "student")


def observation_space(n_eval: int) -> spaces.Dict:
    """The space of observations with `n_eval` eval images; see RCNASEnv."""
    most = np.tile(np.array([MAX_PLANES, MAX_DEPTH, 1, 1], np.float32), (N_STAGE, 1))
    return spaces.Dict(
        {
            "stages": spaces.Box(np.zeros_like(most), most, dtype=np.float32),
            "lips": spaces.Box(0.0, np.inf, (n_eval,), np.float32),
            "cost": spaces.Box(0.0, np.inf, (n_eval,), np.float32),
        }
    )


def _datasets(source: TaskSource) -> Sequence[str]:
    """The data sets that a source's tasks are of, as far as it tells."""
    return getattr(source, "datasets", None) or [task.dataset for task in getattr(source, "tasks", ())]
