"""Learners of stable-baselines3 and sb3-contrib (Raffin et al., JMLR 2021) behind the Agent protocol.

Environments step together as one VecEnv (agents/flat_vector_env.py); settings are in agents/sb3_settings.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_safetensors
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from torch import Tensor

from agents.agent import Envs, OnTrial
from agents.encoder_file import restored_encoder
from agents.flat_vector_env import FlatVectorEnv, SingleSpaces, flat_state
from agents.sb3_settings import class_arguments, complete_settings, learner, learner_class
from agents.sb3_weights import model_tensors, restore_model
from agents.state_encoder import STAGE_FEATURES, StateEncoder
from agents.trial import Trial
from rcnas_env.compression import action_space
from rcnas_env.env import observation_space
from rcnas_env.random_streams import lent_random_streams
from rcnas_env.seeding import derive_seed
from rcnas_env.strict_json import parse_json
from rcnas_env.task import N_STAGE
from rcnas_env.validation import require_fields, require_integer, require_options, shown
from rcnas_env.whole_files import writing
from rcnas_env.wrappers import EncodedState, FlatAction

FORMAT = 1
LIPS_AND_COST = 3
"""Entries of `flat_state` beside the stages'."""


class SB3Agent:
    """One algorithm, learning from the environments that it is given: meta-training on many tasks, fine-tuning on one.

    Every search builds the model anew for its number of environments and gives it the weights and the optimizers'
    state of the last one. Replay buffers start empty: rewards of another task would mislead. Random actions open the
    first search alone (`learning_starts`). All randomness of a search derives from (seed, steps taken before it), so
    that an agent that is saved and loaded between two searches goes on exactly as it would have.

    stable-baselines3 seeds the process-wide random streams and draws from them: they are lent to it for the time of
    a search, and are as before afterwards. What the environments draw from them in the meantime is not the caller's.

    Args:
        algorithm: "ppo", "a2c", "trpo", "recurrent-ppo", "sac", "td3" or "crossq".
        seed: of initial weights, actions, batches and environments.
        encoder: pre-trained, frozen here, makes the states; None for `flat_state`.
        settings: in place of those of `agents.sb3_settings.LEARNERS`.
        device: where the networks are; "cpu" is the faster for networks as small as these.

    Raises:
        ValueError: an argument is unknown or out of range.
        ModuleNotFoundError: the algorithm's package is not installed.
    """

    def __init__(
        self,
        algorithm: str,
        seed: int = 0,
        encoder: StateEncoder | None = None,
        settings: Mapping[str, Any] | None = None,
        device: str = "cpu",
    ) -> None:
        self.algorithm, self.device = algorithm, device
        self.name = learner(algorithm).class_name
        self.seed = require_integer("seed", seed, 0)
        if encoder is not None and not isinstance(encoder, StateEncoder):
            raise ValueError(f"encoder must be a StateEncoder or None, got {encoder!r}")
        self.encoder = None if encoder is None else encoder.requires_grad_(False)
        self.given = dict(settings or {})
        try:
            json.dumps(self.given, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"settings must be JSON values, which the agent is saved with: {error}") from None
        self.settings = complete_settings(algorithm, self.given)
        self.steps_taken = 0
        self.tensors: dict[str, Tensor] = {}
        """What was learnt, by `agents.sb3_weights`' names; empty before the first search."""

    def search(self, envs: Envs, evaluations: int, on_trial: OnTrial | None = None) -> list[Trial]:
        """See `Agent`. An exception leaves the agent as it was before.

        Raises:
            ValueError: evaluations is no integer of at least 0.
        """
        if require_integer("evaluations", evaluations, 0) == 0:
            return []
        reset_seed = derive_seed(self.seed, "tasks", self.steps_taken) % 2**31
        flat = FlatVectorEnv(envs, self._encode, self._size, evaluations, on_trial, reset_seed, self.steps_taken)
        with lent_random_streams(self._learning_seed(), self.device):
            model = self._model(flat, envs.num_envs)
            model.learn(evaluations, callback=_StopInTime(flat, self.settings))
            self.tensors = model_tensors(model)
        self.steps_taken = flat.steps_taken
        return flat.trials

    def act(self, observation: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The policy's most likely action for one observation of RCNASEnv."""
        n_eval = len(observation["lips"])
        flat = FlatAction(SingleSpaces(observation_space(n_eval), action_space(N_STAGE)))
        states = EncodedState(flat, self._encode, self._size)
        with lent_random_streams(self._learning_seed(), self.device):
            chosen, _ = self._model(states, 1).predict(states.observation(dict(observation)), deterministic=True)
        return flat.action(chosen)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the agent to a safetensors file with its settings as JSON in the header, whole or not at all."""
        encoder = self.encoder
        content = {
            "format": FORMAT,
            "algorithm": self.algorithm,
            "seed": self.seed,
            "settings": self.given,
            "device": self.device,
            "steps_taken": self.steps_taken,
            "encoder": encoder and {name: getattr(encoder, name) for name in ("n_eval", "stages", "hidden", "state")},
        }
        tensors = {f"model/{name}": value for name, value in self.tensors.items()}
        if encoder is not None:
            tensors |= {f"encoder/{name}": value.contiguous() for name, value in encoder.state_dict().items()}
        with writing(path) as temporary:
            temporary.write_bytes(save_safetensors(tensors, {"agent": json.dumps(content, allow_nan=False)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SB3Agent:
        """The agent that `save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no agent of this format.
        """
        try:
            with safe_open(path, framework="pt") as file:
                header = (file.metadata() or {}).get("agent", "null")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError as error:
            raise ValueError(f"agent file must be a safetensors file: {error}") from None
        names = ("format", "algorithm", "seed", "settings", "device", "steps_taken", "encoder")
        content = require_fields("agent file", _json(header), names)
        if content["format"] != FORMAT:
            raise ValueError(f"agent file must have format {FORMAT}, got {shown(content['format'])}")
        encoder = None
        if content["encoder"] is not None:
            encoder = restored_encoder("encoder", content["encoder"], _part(tensors, "encoder/"))
        settings = require_options("settings", content["settings"])
        if not isinstance(content["device"], str):
            raise ValueError(f"device must be a string, got {shown(content['device'])}")
        agent = cls(content["algorithm"], content["seed"], encoder, settings, content["device"])
        agent.steps_taken = require_integer("steps_taken", content["steps_taken"], 0)
        agent.tensors = _part(tensors, "model/")
        return agent

    @property
    def _size(self) -> int:
        """Length of the flat state."""
        if self.encoder is None:
            return STAGE_FEATURES * N_STAGE + LIPS_AND_COST
        return self.encoder.stages * self.encoder.state

    def _encode(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        return flat_state(observation) if self.encoder is None else self.encoder.encode(observation)

    def _learning_seed(self) -> int:
        return derive_seed(self.seed, self.algorithm, self.steps_taken)

    def _model(self, env: Any, num_envs: int) -> Any:
        """The algorithm's model on `env`, with what was learnt so far; draws from the process-wide streams."""
        arguments = class_arguments(self.algorithm, self.settings, num_envs, 4 * N_STAGE)
        if self.steps_taken and "learning_starts" in arguments:
            arguments["learning_starts"] = 0
        model = learner_class(self.algorithm)(
            learner(self.algorithm).policy, env, seed=self._learning_seed() % 2**32, device=self.device, **arguments
        )
        model.set_logger(Logger(None, []))  # the default one makes a folder
        if self.tensors:
            restore_model(model, self.tensors)
        return model


def _json(header: str) -> Any:
    try:
        return parse_json(header)
    except ValueError as error:
        raise ValueError(f"agent file must have its settings as JSON in the header, but {error}") from None


class _StopInTime(BaseCallback):
    """Ends the learning where the next thing would go beyond the granted evaluations.

    A rollout that is complete with the last evaluation is still learnt from; one that is not, or that holds students
    beyond those granted, is not.
    """

    def __init__(self, flat: FlatVectorEnv, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.flat, self.settings = flat, settings

    def _on_step(self) -> bool:
        steps, granted = self.num_timesteps, self.flat.evaluations
        if steps < granted:
            return True
        rollout = getattr(self.model, "n_steps", 1) * self.flat.num_envs if "rollout" in self.settings else 1
        return steps == granted and steps % rollout == 0


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
