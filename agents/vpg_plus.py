"""`vpg+`: the paper's agent, made to learn from tens of rewards.

State encoder, hybrid policy, meta-training and fine-tuning are VPG's. What is added, each with its switch, and measured
against its absence in docs/agents.md:

- **budget**: what an action costs is known before anything is trained. Several actions are drawn for each state;
  those over the budget are not tried, and learnt from at an advantage of −1, which costs nothing.
- **critic**: the one unknown of Eq. 4, the student's accuracy, is predicted from all students trained so far, of
  whatever task (`agents.critic`). Of the actions drawn, the one of the highest optimistic prediction is tried; the
  others, with their predicted rewards, make the policy gradient's batch many times larger.
- **distinct**: a student whose accuracy under an attack is known is not trained again: its reward follows.
- **normalised**: advantages are relative to the mean of the actions drawn for the same state (a baseline a task), in
  units of their deviation, and clipped.
- **trust region**: `epochs` gradient steps a batch, on the clipped ratio of probabilities (Schulman et al. 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.agent import Envs, OnTrial
from agents.critic import AccuracyCritic
from agents.policy import to_action
from agents.state_encoder import StateEncoder, features
from agents.trial import Trial, info_of, plain, trial_of
from agents.vpg import VPG, IterationReport, UpdateReport, granted, padded
from agents.vpg_plus_settings import VPGPlusConfig as VPGPlusConfig
from rcnas_env.architecture import NetworkSpec
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from rcnas_env.reward import OVER_BUDGET_REWARD
from rcnas_env.seeding import derive_seed
from rcnas_env.task import Task
from rcnas_env.validation import require_fields, require_number

Floats = NDArray[np.float64]


@dataclass
class Drawn:
    """The actions drawn for one state.

    task: that they apply to; students: what they make of its teacher.
    states: (D, N_stage, state), all the same; alpha, beta: (D, N_stage, 2); log_prob: (D,), when they were drawn.
    values: (D,): Eq. 4's reward, known, predicted, or NaN.
    chosen: index of the one that is tried.
    """

    task: Task
    students: list[NetworkSpec]
    states: Tensor
    alpha: Tensor
    beta: Tensor
    log_prob: Tensor
    values: Floats
    over: NDArray[np.bool_]
    chosen: int = 0


class VPGPlus(VPG):
    """See the module; arguments and protocol are VPG's."""

    kind = "vpg+"
    config: VPGPlusConfig

    def __init__(
        self, encoder: StateEncoder, config: VPGPlusConfig | None = None, seed: int = 0, name: str = "RC-NAS+"
    ) -> None:
        super().__init__(encoder, config or VPGPlusConfig(), seed, name)
        self.critic = AccuracyCritic()
        self.tried: set[NetworkSpec] = set()
        self._task: Task | None = None  # of the search under way, or the last
        self._emphasis = 1.0  # λ of the environments' reward

    def step(self, envs: Envs, evaluations: int | None = None, on_trial: OnTrial | None = None) -> IterationReport:
        """One iteration: an episode of each environment, then a policy update. See `VPG.step`."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "actions", self.iteration))
        seed = derive_seed(self.seed, "tasks", self.iteration) % 2**31
        observation, infos = envs.reset(seed=seed, options={"steps_taken": self.steps_taken})
        self._emphasis = getattr(getattr(envs.unwrapped, "envs", [None])[0], "compression_emphasis", 1.0)
        batch: list[Drawn] = []
        trials: list[Trial] = []
        finished = False
        while not finished:
            used = granted(envs, evaluations, len(trials))
            tasks = [Task.from_dict(plain(info_of(infos, index)["next_task"])) for index in range(envs.num_envs)]
            if evaluations is not None and tasks[0] != self._task:
                self.tried, self._task = set(), tasks[0]  # what another task's students were worth says nothing here
            drawn = self._draw(self.encoder(features(observation)), tasks, generator, evaluations is not None)
            chosen = [(each.alpha[each.chosen], each.beta[each.chosen]) for each in drawn]
            actions = to_action(*(torch.stack(part) for part in zip(*chosen, strict=True)))
            observation, rewards, _, truncated, infos = envs.step(padded(actions, used))
            for index in range(used):
                info = info_of(infos, index)
                self._observe(drawn[index], info, float(rewards[index]))
                trials.append(trial_of(info))
                if on_trial:
                    on_trial(trials[-1])
            batch.extend(drawn[:used])
            self.steps_taken += envs.num_envs
            finished = bool(np.all(truncated)) or len(trials) == evaluations
        if evaluations is not None:
            self.tried.update(trial.student for trial in trials)
        update = self._improve(batch)
        report = IterationReport(self.iteration, float(np.mean([t.reward for t in trials])), update, tuple(trials))
        self.iteration += 1
        return report

    @torch.no_grad()
    def _draw(self, states: Tensor, tasks: Sequence[Task], generator: torch.Generator, searching: bool) -> list[Drawn]:
        """Draw actions for each state, and choose one of each."""
        found: list[Drawn] = []
        taken = set(self.tried) if searching and self.config.distinct else set()
        for state, task in zip(states, tasks, strict=True):
            repeated = state[None].expand(self.config.draws, -1, -1)
            distribution = self.policy(repeated)
            alpha, beta = distribution.sample(generator)
            self._explore(alpha, beta, generator)
            actions = to_action(alpha, beta)
            students = [
                compress(task.teacher, {part: value[i] for part, value in actions.items()})
                for i in range(self.config.draws)
            ]
            values = np.full(len(students), np.nan)
            drawn = Drawn(
                task,
                students,
                repeated,
                alpha,
                beta,
                distribution.log_prob(alpha, beta),
                values,
                np.zeros(len(students), bool),
            )
            drawn.chosen = self._choose(drawn, taken)
            if searching and self.config.distinct:
                taken.add(students[drawn.chosen])
            found.append(drawn)
        return found

    def _explore(self, alpha: Tensor, beta: Tensor, generator: torch.Generator) -> None:
        """Replace the last draws by uniform ones, in place."""
        count = self._uniform_draws(len(alpha))
        if count:
            alpha[-count:] = torch.rand(alpha[-count:].shape, generator=generator).logit(eps=1e-4)
            beta[-count:] = (torch.rand(beta[-count:].shape, generator=generator) < 0.5).float()

    def _uniform_draws(self, draws: int) -> int:
        """How many of the draws are uniform: never all, for the policy learns from its own."""
        return min(self.config.exploring, draws - 1)

    def _choose(self, drawn: Drawn, taken: set[NetworkSpec]) -> int:
        """The index of the action to try: within the budget, new, and the best as far as the critic knows."""
        macs = np.array([cost(student).macs for student in drawn.students])
        over = macs > drawn.task.budget if self.config.budget else np.zeros(len(macs), bool)
        drawn.over = over
        drawn.values[over] = OVER_BUDGET_REWARD
        if over.all():
            return int(macs.argmin())
        merit = np.zeros(len(macs))
        if self.config.critic and self.critic.ready:
            attack = attack_key(drawn.task)
            kept = [student for student, out in zip(drawn.students, over, strict=True) if not out]
            mean, deviation = self.critic.predict(kept, attack)
            teacher = self.critic.predict([drawn.task.teacher], attack)[0]
            drawn.values[~over] = self._predicted(mean, float(teacher[0]), kept, drawn.task)
            merit[~over] = self._predicted(mean + self.config.optimism * deviation, float(teacher[0]), kept, drawn.task)
        merit[over] = -np.inf
        new = np.array([self._is_new(student, drawn.task, taken) for student in drawn.students]) & ~over
        if new.any():
            merit[~new] = -np.inf
        return int(merit.argmax())

    def _is_new(self, student: NetworkSpec, task: Task, taken: set[NetworkSpec]) -> bool:
        known = self.config.distinct and self.critic.knows(student, attack_key(task))
        return student not in taken and not known

    def _observe(self, drawn: Drawn, info: dict[str, Any], reward: float) -> None:
        """Take note of what the chosen action gave."""
        drawn.values[drawn.chosen] = reward
        attack = attack_key(drawn.task)
        if self.config.teachers:
            self.critic.observe(drawn.task.teacher, attack, float(info["teacher_accuracy"]))
        if info["evaluated"]:
            self.critic.observe(drawn.students[drawn.chosen], attack, float(info["robust_accuracy"]))

    def _improve(self, batch: Sequence[Drawn]) -> UpdateReport:
        """`epochs` steps up the clipped surrogate objective."""
        config = self.config
        overall = float(np.mean([each.values[each.chosen] for each in batch]))
        advantages = torch.tensor(np.concatenate([self._advantages(each, overall) for each in batch])).float()
        kept = ~advantages.isnan()
        advantages = advantages[kept]
        states = torch.cat([each.states for each in batch])[kept]
        alpha, beta = torch.cat([each.alpha for each in batch])[kept], torch.cat([each.beta for each in batch])[kept]
        old = torch.cat([each.log_prob for each in batch])[kept]
        norm = entropy = torch.zeros(())
        for _ in range(config.epochs):
            distribution = self.policy(states)
            ratio = (distribution.log_prob(alpha, beta) - old).exp()
            clipped = ratio.clamp(1 - config.ratio_clip, 1 + config.ratio_clip)
            chance = torch.sigmoid(distribution.logits)
            entropy = F.binary_cross_entropy_with_logits(distribution.logits, chance)
            objective = torch.minimum(ratio * advantages, clipped * advantages).mean() + config.entropy_bonus * entropy
            self.optimizer.zero_grad(set_to_none=True)
            (-objective).backward()
            norm = nn.utils.clip_grad_norm_(self.policy.parameters(), config.gradient_clip)
            self.optimizer.step()
        return UpdateReport(float(norm), float(entropy.detach()))

    def _advantages(self, drawn: Drawn, overall: float) -> Floats:
        """(D,): how much better than the mean of the same state's known or predicted values; NaN where neither."""
        known = drawn.values[~np.isnan(drawn.values) & ~drawn.over]
        baseline = float(known.mean()) if len(known) > 1 and self.config.state_baseline else overall
        advantages = drawn.values - baseline
        if self.config.normalise:
            scale = float(known.std()) if len(known) > 1 else abs(baseline) + 0.1
            advantages = np.clip(advantages / (scale + 1e-6), -self.config.advantage_clip, self.config.advantage_clip)
        advantages[drawn.over] = -self.config.over_budget
        if count := self._uniform_draws(len(advantages)):
            advantages[-count:] = np.nan
        return advantages

    def incumbent(self, trials: Sequence[Trial]) -> Trial | None:
        """The trial within the budget whose expected reward the critic takes for the highest: one training's accuracy
        is noisy, and the luckiest of many is seldom the best. The best reward where the critic is not asked.
        """
        fitting = [trial for trial in trials if trial.within_budget]
        if not (fitting and self._task and self.config.critic and self.config.own_choice and self.critic.ready):
            return max(fitting, key=lambda trial: trial.reward, default=None)
        students = [trial.student for trial in fitting]
        mean, _ = self.critic.predict(students, attack_key(self._task))
        return fitting[int(self._predicted(mean, 1.0, students, self._task).argmax())]

    def _predicted(self, angles: Floats, teacher: float, students: Sequence[NetworkSpec], task: Task) -> Floats:
        return predicted_rewards(angles, teacher, students, task, self._emphasis, 1 / self.encoder.n_eval)

    def memory(self) -> dict[str, Any]:
        """What the agent knows beside its weights, as JSON values."""
        tried = [student.to_dict() for student in sorted(self.tried, key=NetworkSpec.to_json)]
        task = self._task.to_dict() if self._task else None
        return {"critic": self.critic.to_list(), "tried": tried, "task": task, "emphasis": self._emphasis}

    def remember(self, memory: Any) -> None:
        """Take over what `memory` returned.

        Raises:
            ValueError: it is no such thing.
        """
        given = require_fields("memory", memory, ("critic", "tried", "task", "emphasis"))
        self.critic = AccuracyCritic.from_list(given["critic"])
        if not isinstance(given["tried"], list):
            raise ValueError(f"memory.tried must be a list of networks, got {given['tried']!r}")
        self.tried = {NetworkSpec.from_dict(student) for student in given["tried"]}
        self._emphasis = require_number("memory.emphasis", given["emphasis"], minimum=0.0, maximum=1.0)
        self._task = None if given["task"] is None else Task.from_dict(given["task"])


def attack_key(task: Task) -> str:
    """What a student's accuracy depends on beside itself."""
    through = f"/{task.teacher.to_json()}" if task.attack_source == "teacher" else ""
    return f"{task.dataset}/{task.attack}/{task.epsilon}{through}"


def predicted_rewards(
    angles: Floats,
    teacher: float,
    students: Sequence[NetworkSpec],
    task: Task,
    emphasis: float = 1.0,
    smallest_accuracy: float = 1 / 256,
) -> Floats:
    """Eq. 4 within the budget, of the accuracies sin² y of students (n,) and teacher: (n,).

    `emphasis` is λ, `smallest_accuracy` the floor of the teacher's, as in `rcnas_env.reward.reward_terms`.
    """
    params = np.array([cost(student).params for student in students])
    compression = 1 - params / cost(task.teacher).params
    weight = 1 - emphasis + emphasis * compression * (2 - compression)
    accuracies, reference = (np.sin(np.clip(each, 0, np.pi / 2)) ** 2 for each in (angles, teacher))
    rewards: Floats = weight * accuracies / max(float(reference), smallest_accuracy)
    return rewards
