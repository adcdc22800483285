"""Vanilla policy gradient on the hybrid action (Eq. 5), meta-trained (Algorithm 1) and fine-tuned (Algorithm 2).

| symbol | here | shape |
|---|---|---|
| s_t | `Experience.states` | (num_envs, N_stage, state) |
| α, β | `Experience.alpha`, `Experience.beta` | (num_envs, N_stage, 2) |
| r_t | `Experience.rewards` | (num_envs,) |
| M, T | `iterations`, steps until truncation | |

Eq. 5 multiplies each reward with the gradient of the probability of the action that led to it; here, as in
every vanilla policy gradient, with the gradient of its logarithm unless `form="density"` (docs/paper-notes.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.agent import Envs, OnTrial
from agents.policy import LOG_STD_RANGE, HybridPolicy, to_action
from agents.state_encoder import StateEncoder, features
from agents.trial import Trial, info_of, trial_of
from rcnas_env.seeding import derive_seed
from rcnas_env.validation import require_choice, require_integer, require_number

BASELINES = ("none", "running")
UPDATES = ("episode", "step")
FORMS = ("log", "density")


@dataclass(frozen=True)
class VPGConfig:
    """Settings of the learner.

    Raises:
        ValueError: a field is out of range.
    """

    learning_rate: float = 0.003
    """Of Adam (Kingma and Ba 2015); the paper names none. 0.003 learns the analytic landscape, 0.02 does not."""
    update: str = "episode"
    """When to take a gradient step: after an "episode" (Eq. 5 sums over t = 1 … T), or after every "step" (in
    Algorithm 1 the update stands inside the loop over t)."""
    form: str = "log"
    """What each reward is multiplied with: the "log" of the action's probability, as in every vanilla policy gradient,
    or the "density" itself, as Eq. 5 has it to the letter (docs/paper-notes.md)."""
    baseline: str = "none"
    """What is subtracted from the reward: "none" (Eq. 5), or "running", the mean of all rewards so far."""
    entropy_bonus: float = 0.0
    """Weight of the policy's entropy in the objective; 0 is Eq. 5."""
    gradient_clip: float = 5.0
    """Largest L2 norm of a gradient."""
    hidden: int = 64
    """Width of the policy's trunk."""
    initial_std: float = 1.0
    """σ of every α at the start."""

    def __post_init__(self) -> None:
        require_choice("vpg.update", self.update, UPDATES)
        require_choice("vpg.form", self.form, FORMS)
        require_choice("vpg.baseline", self.baseline, BASELINES)
        require_integer("vpg.hidden", self.hidden, 1)
        low, high = (math.exp(bound) for bound in LOG_STD_RANGE)  # beyond, no gradient would ever move it
        require_number("vpg.initial_std", self.initial_std, minimum=low, maximum=high)
        for name in ("learning_rate", "gradient_clip"):
            require_number(f"vpg.{name}", getattr(self, name), minimum=0.0, exclusive_minimum=True)
        require_number("vpg.entropy_bonus", self.entropy_bonus, minimum=0.0)


@dataclass(frozen=True)
class Experience:
    """One step of num_envs environments."""

    states: Tensor
    alpha: Tensor
    beta: Tensor
    rewards: Tensor


@dataclass(frozen=True)
class UpdateReport:
    """What a gradient step did: gradient norm before clipping, mean entropy of the policy in nats."""

    gradient_norm: float
    entropy: float


@dataclass(frozen=True)
class IterationReport:
    """What an iteration did: its number from 0, mean reward, its last update, its trials."""

    iteration: int
    mean_reward: float
    update: UpdateReport
    trials: tuple[Trial, ...]


OnIteration = Callable[[IterationReport], None]


class VPG:
    """The paper's agent: a frozen state encoder, a hybrid policy, vanilla policy gradient.

    All randomness of iteration m derives from (seed, m), so that a run that is interrupted between
    iterations and resumed from a checkpoint goes on exactly as it would have.

    Args:
        encoder: pre-trained; frozen here.
        config: settings of the learner.
        seed: of initial weights, actions and environments.
        name: what tables call this agent.
    """

    kind = "vpg"
    """Of agent; its name in `agents.registry`."""

    def __init__(
        self, encoder: StateEncoder, config: VPGConfig | None = None, seed: int = 0, name: str = "RC-NAS"
    ) -> None:
        self.name = name
        self.config = config or VPGConfig()
        self.seed = require_integer("seed", seed, 0)
        self.encoder = encoder.requires_grad_(False)
        self.policy = HybridPolicy(
            encoder.state,
            encoder.stages,
            self.config.hidden,
            self.config.initial_std,
            derive_seed(seed, "policy"),
        )
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=self.config.learning_rate)
        self.iteration, self.steps_taken = 0, 0
        self.reward_sum, self.reward_count = 0.0, 0

    def act(self, observation: Any, generator: torch.Generator | None = None) -> dict[str, np.ndarray]:
        """The action for one observation: sampled with `generator`, the most likely one without."""
        distribution = self.policy(self.encoder(features(observation)))
        alpha, beta = distribution.mode() if generator is None else distribution.sample(generator)
        return {part: value[0] for part, value in to_action(alpha, beta).items()}

    def learn(self, envs: Envs, iterations: int, on_iteration: OnIteration | None = None) -> list[IterationReport]:
        """Algorithm 1's outer loop (Algorithm 2's, in environments of T = 1 on one task), `iterations` more times.

        Every iteration resets the environments, and with them the buffers.
        """
        reports = []
        for _ in range(iterations):
            report = self.step(envs)
            reports.append(report)
            if on_iteration:
                on_iteration(report)
        return reports

    def step(self, envs: Envs, evaluations: int | None = None, on_trial: OnTrial | None = None) -> IterationReport:
        """One iteration: an episode of each environment, with gradient steps as `config.update` says.

        Args:
            envs: whose episodes all have the same length.
            evaluations: the most students to take note of, at least 1; None for all. With the last of them the
                iteration ends, in the middle of an episode if need be.
            on_trial: called with each student as it is done.
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "actions", self.iteration))
        seed = derive_seed(self.seed, "tasks", self.iteration) % 2**31
        observation, _ = envs.reset(seed=seed, options={"steps_taken": self.steps_taken})
        episode: list[Experience] = []
        trials: list[Trial] = []
        finished = False
        while not finished:
            used = granted(envs, evaluations, len(trials))
            states = self.encoder(features(observation))
            with torch.no_grad():
                alpha, beta = self.policy(states).sample(generator)
            observation, rewards, _, truncated, infos = envs.step(padded(to_action(alpha, beta), used))
            values = torch.as_tensor(rewards[:used], dtype=torch.float32)
            episode.append(Experience(states[:used], alpha[:used], beta[:used], values))
            for index in range(used):
                trials.append(trial_of(info_of(infos, index)))
                if on_trial:
                    on_trial(trials[-1])
            self.steps_taken += envs.num_envs
            finished = bool(np.all(truncated)) or len(trials) == evaluations
            if self.config.update == "step":
                update = self.update(episode[-1:])
        if self.config.update == "episode":
            update = self.update(episode)
        mean_reward = torch.cat([experience.rewards for experience in episode]).mean().item()
        report = IterationReport(self.iteration, mean_reward, update, tuple(trials))
        self.iteration += 1
        return report

    def update(self, episode: Sequence[Experience]) -> UpdateReport:
        """One gradient step on −Σ_t (r_t − b) · log π(a_t | s_t), mean over environments (Eq. 5)."""
        distribution = self.policy(torch.cat([experience.states for experience in episode]))
        alpha = torch.cat([experience.alpha for experience in episode])
        beta = torch.cat([experience.beta for experience in episode])
        rewards = torch.cat([experience.rewards for experience in episode])
        advantages = rewards - self._baseline(rewards)
        entropy = distribution.entropy()
        likelihood = distribution.log_prob if self.config.form == "log" else distribution.density
        gain = advantages * likelihood(alpha, beta) + self.config.entropy_bonus * entropy
        objective = gain.sum() / len(episode[0].rewards)
        self.optimizer.zero_grad(set_to_none=True)
        (-objective).backward()
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        return UpdateReport(norm.item(), entropy.mean().item())

    def search(self, envs: Envs, evaluations: int, on_trial: OnTrial | None = None) -> list[Trial]:
        """Fine-tune on the environments' task with `evaluations` students; see `Agent`.

        Raises:
            ValueError: evaluations is no integer of at least 0.
        """
        require_integer("evaluations", evaluations, 0)
        trials: list[Trial] = []
        while len(trials) < evaluations:
            trials.extend(self.step(envs, evaluations - len(trials), on_trial).trials)
        return trials

    def settings(self) -> dict[str, Any]:
        """What reconstructs this agent apart from its weights, as JSON values."""
        encoder = {k: getattr(self.encoder, k) for k in ("n_eval", "stages", "hidden", "state")}
        config = asdict(self.config)
        return {"kind": self.kind, "name": self.name, "seed": self.seed, "config": config, "encoder": encoder}

    def memory(self) -> Any:
        """What the agent knows beside its weights, as JSON values: nothing."""
        return None

    def remember(self, memory: Any) -> None:
        """Take over what `memory` returned.

        Raises:
            ValueError: it is no such thing.
        """
        if memory is not None:
            raise ValueError(f"memory must be null for agent {self.kind!r}, got {memory!r}")

    def _baseline(self, rewards: Tensor) -> float:
        """b: 0, or the mean of all rewards up to and with these; a constant, so the gradient stays unbiased
        up to the share of the present rewards in the mean.
        """
        if self.config.baseline == "none":
            return 0.0
        self.reward_sum += float(rewards.sum())
        self.reward_count += len(rewards)
        return self.reward_sum / self.reward_count


def granted(envs: Envs, evaluations: int | None, taken: int) -> int:
    """How many environments' next students count, where `taken` of `evaluations` are used up."""
    return envs.num_envs if evaluations is None else min(envs.num_envs, evaluations - taken)


def padded(actions: dict[str, np.ndarray], used: int) -> dict[str, np.ndarray]:
    """`actions`, the environments after the first `used` repeating the last of these: equal jobs are evaluated once."""
    return {part: rows[np.minimum(np.arange(len(rows)), used - 1)] for part, rows in actions.items()}
