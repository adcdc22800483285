"""Which algorithms of stable-baselines3 and sb3-contrib are rivals here, and with what settings.

The packages' defaults are made for a million steps (PPO: n_steps = 2048). Those below learn something within 500
students: they update after 16 of them, or after every one. What they do not name is the package's default. Three
choices hold for all:

- gamma = 0: a student's reward follows from one action, as in Eq. 5, where each reward weighs its own action alone.
- Networks of two layers of 64, as wide as `VPGConfig.hidden`.
- Actor-critics start with a standard deviation of 0.5 on [-1, 1], so that shares spread over most of [0, 1], and
  switches at even odds.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rcnas_env.registry import unknown_name
from rcnas_env.validation import require_integer, require_number

_NETWORK = {"net_arch": [64, 64]}
_GAUSSIAN = {**_NETWORK, "log_std_init": -0.7}
_ON_POLICY = {"rollout": 16, "gamma": 0.0, "gae_lambda": 1.0}
_OFF_POLICY = {"gamma": 0.0, "batch_size": 64, "buffer_size": 10_000, "learning_starts": 16}
_TEMPERATURE = 0.02
"""Weight of the entropy, fixed: the package's automatic one starts at 1, where rewards between -1 and 1 are drowned."""


@dataclass(frozen=True)
class Learner:
    """One algorithm of stable-baselines3 or sb3-contrib.

    package, class_name: where its class is.
    policy: stable-baselines3's name of its policy.
    settings: by name the class's own arguments, and three that stand for one of them:

    - rollout (those on policy): students between two updates, at least 2; n_steps · num_envs.
    - gradient_steps (those off policy): after each student; the package counts them per step of all environments.
    - exploration_noise (TD3): standard deviation of the Gaussian action_noise on [-1, 1].
    """

    package: str
    class_name: str
    policy: str = "MlpPolicy"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def on_policy(self) -> bool:
        """Whether it updates on a rollout and forgets it, or learns from a replay buffer."""
        return "rollout" in self.settings


LEARNERS: dict[str, Learner] = {
    "ppo": Learner(
        "stable_baselines3",
        "PPO",
        settings={**_ON_POLICY, "learning_rate": 3e-3, "n_epochs": 10, "policy_kwargs": _GAUSSIAN},
    ),
    "a2c": Learner(
        "stable_baselines3",
        "A2C",
        settings={**_ON_POLICY, "learning_rate": 3e-3, "normalize_advantage": True, "policy_kwargs": _GAUSSIAN},
    ),
    "trpo": Learner(
        "sb3_contrib",
        "TRPO",
        settings={**_ON_POLICY, "learning_rate": 3e-3, "target_kl": 0.05, "policy_kwargs": _GAUSSIAN},
    ),
    "recurrent-ppo": Learner(
        "sb3_contrib",
        "RecurrentPPO",
        "MlpLstmPolicy",
        {
            **_ON_POLICY,
            "learning_rate": 3e-3,
            "n_epochs": 10,
            "policy_kwargs": {**_GAUSSIAN, "lstm_hidden_size": 32},
        },
    ),
    "sac": Learner(
        "stable_baselines3",
        "SAC",
        settings={
            **_OFF_POLICY,
            "learning_rate": 1e-3,
            "gradient_steps": 2,
            "ent_coef": _TEMPERATURE,
            "policy_kwargs": _NETWORK,
        },
    ),
    "td3": Learner(
        "stable_baselines3",
        "TD3",
        settings={
            **_OFF_POLICY,
            "learning_rate": 1e-3,
            "gradient_steps": 2,
            "exploration_noise": 0.3,
            "policy_kwargs": _NETWORK,
        },
    ),
    "crossq": Learner(
        "sb3_contrib",
        "CrossQ",
        settings={
            **_OFF_POLICY,
            "learning_rate": 1e-3,
            "gradient_steps": 2,
            "ent_coef": _TEMPERATURE,
            "policy_delay": 1,
            # On one task the state is constant. The actor's batch norm divides by its deviation, 0 but for eps: a
            # small one magnifies every lag of the running mean until actions are noise.
            "policy_kwargs": {**_NETWORK, "batch_norm_momentum": 0.1, "batch_norm_eps": 1.0},
        },
    ),
}

_OURS = ("policy", "env", "seed", "device", "verbose", "tensorboard_log", "n_steps", "action_noise", "train_freq")
"""Arguments of the classes that `SB3Agent` sets."""


def learner(algorithm: object) -> Learner:
    """The learner called `algorithm`.

    Raises:
        UnknownNameError: there is none.
    """
    if not isinstance(algorithm, str) or algorithm not in LEARNERS:
        raise unknown_name("algorithm", algorithm, LEARNERS)
    return LEARNERS[algorithm]


def learner_class(algorithm: str) -> Any:
    """The algorithm's class; its package, an optional extra, is imported here.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    chosen = learner(algorithm)
    return getattr(importlib.import_module(chosen.package), chosen.class_name)


def complete_settings(algorithm: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The algorithm's settings with those `given` in place of the defaults.

    Raises:
        ValueError: one is unknown, set by `SB3Agent` itself, or out of range.
    """
    chosen = learner(algorithm)
    parameters = inspect.signature(learner_class(algorithm)).parameters
    batch = ["batch_size"] if chosen.on_policy else []  # the whole rollout
    taken = sorted({*chosen.settings, *parameters} - {*_OURS, *batch} - {name for name in parameters if name[0] == "_"})
    for name in given:
        if name not in taken:
            raise ValueError(f"settings of {algorithm!r} must be among {', '.join(taken)}, got {name!r}")
    settings = {**chosen.settings, **given}
    require_number("settings['learning_rate']", settings["learning_rate"], minimum=0.0, exclusive_minimum=True)
    for name, least in {"rollout": 2, "gradient_steps": 1, "learning_starts": 0, "buffer_size": 1}.items():
        if name in settings:
            require_integer(f"settings[{name!r}]", settings[name], least)
    if "exploration_noise" in settings:
        require_number("settings['exploration_noise']", settings["exploration_noise"], minimum=0.0)
    return settings


def class_arguments(algorithm: str, settings: Mapping[str, Any], num_envs: int, actions: int) -> dict[str, Any]:
    """The arguments of the algorithm's class for `num_envs` environments with flat actions of length `actions`."""
    # a copy all the way down: the classes write into their policy_kwargs
    arguments = deepcopy({name: settings[name] for name in settings if name not in ("rollout", "exploration_noise")})
    if "rollout" in settings:
        arguments["n_steps"] = max(1, settings["rollout"] // num_envs)
        if "batch_size" in inspect.signature(learner_class(algorithm)).parameters:
            arguments["batch_size"] = max(2, arguments["n_steps"] * num_envs)
    if "gradient_steps" in settings:
        arguments["gradient_steps"] = settings["gradient_steps"] * num_envs
    if "exploration_noise" in settings:
        from stable_baselines3.common.noise import NormalActionNoise

        arguments["action_noise"] = NormalActionNoise(
            np.zeros(actions, np.float32), np.full(actions, settings["exploration_noise"], np.float32)
        )
    return arguments
