"""Checkpoints of the agent: weights and optimizer as safetensors, the rest as JSON; written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_safetensors
from torch import Tensor

from agents.encoder_file import require_weights, restored_encoder
from agents.vpg import VPG, VPGConfig
from agents.vpg_plus import VPGPlus, VPGPlusConfig
from rcnas_env.strict_json import parse_json
from rcnas_env.validation import require_choice, require_fields, require_integer, require_number, shown

FORMAT = 3

_SETTINGS = ("format", "agent", "iteration", "steps_taken", "reward_sum", "reward_count", "memory", "extra")
_KINDS: dict[str, tuple[type[VPG], type[VPGConfig]]] = {"vpg": (VPG, VPGConfig), "vpg+": (VPGPlus, VPGPlusConfig)}
_ADAM_STATE = {"step", "exp_avg", "exp_avg_sq"}


class CheckpointError(ValueError):
    """A folder that holds no checkpoint that this version can read; the message says why."""


def save_checkpoint(agent: VPG, folder: str | os.PathLike[str], extra: dict[str, Any] | None = None) -> None:
    """Save `agent` to `folder`; whenever this is killed, `load_checkpoint` finds either the old or the new one.

    What a process that was killed here left half-written is removed. One process at a time saves to a folder.

    Args:
        extra: JSON values to keep along, such as the environments' step count.

    Raises:
        OSError: it cannot be written; the old one is as it was.
    """
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"encoder/{name}": value for name, value in agent.encoder.state_dict().items()}
    tensors |= {f"policy/{name}": value for name, value in agent.policy.state_dict().items()}
    for index, state in agent.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in state.items()}
    settings = {
        "format": FORMAT,
        "agent": agent.settings(),
        "iteration": agent.iteration,
        "steps_taken": agent.steps_taken,
        "reward_sum": agent.reward_sum,
        "reward_count": agent.reward_count,
        "memory": agent.memory(),
        "extra": extra or {},
    }
    prefix = f".writing-{target.name}@"  # not "-": a neighbour may be called NAME-2
    for left in [path for path in target.parent.iterdir() if path.name.startswith(prefix)]:
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix))
    try:
        weights = save_safetensors({name: value.detach().contiguous().clone() for name, value in tensors.items()})
        (temporary / "weights.safetensors").write_bytes(weights)  # on a full disk an OSError, unlike their own writing
        (temporary / "agent.json").write_text(json.dumps(settings, indent=1, allow_nan=False), encoding="utf-8")
        replaced = _replaced(target)
        if target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            os.replace(target, replaced)
        os.replace(temporary, target)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(target)
        raise


def has_checkpoint(folder: str | os.PathLike[str]) -> bool:
    """Whether `load_checkpoint` would find something in `folder`, be it damaged."""
    return Path(folder).exists() or _replaced(Path(folder)).exists()


def load_checkpoint(folder: str | os.PathLike[str]) -> tuple[VPG, dict[str, Any]]:
    """(agent, extra) as `save_checkpoint` left them: the agent goes on as if never interrupted.

    Raises:
        CheckpointError: the folder holds no readable checkpoint.
    """
    source = Path(folder)
    if not source.exists():  # killed between the two renames of a replacement
        source = _replaced(source)
    try:
        settings = parse_json((source / "agent.json").read_bytes())
        tensors = load_file(source / "weights.safetensors")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {str(folder)!r} cannot be read: {error}") from None
    except Exception as error:  # safetensors' own error type has no common base
        raise CheckpointError(f"checkpoint {str(folder)!r} has damaged weights: {error}") from None
    try:
        return _restore(settings, tensors), dict(settings["extra"])
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"checkpoint {str(folder)!r} does not hold an agent: {error}") from None


def _replaced(target: Path) -> Path:
    """Where the old checkpoint is between the two renames of a replacement."""
    return target.with_name(f".replaced-{target.name}")


def _restore(settings: Any, tensors: dict[str, Tensor]) -> VPG:
    found = settings.get("format") if isinstance(settings, dict) else None
    if found != FORMAT:  # first: another format may well have other fields
        raise ValueError(f"format must be {FORMAT}, got {found!r}")
    require_fields("checkpoint", settings, _SETTINGS)
    described = require_fields("agent", settings["agent"], ("kind", "name", "seed", "config", "encoder"))
    make, make_config = _KINDS[require_choice("agent.kind", described["kind"], tuple(_KINDS))]
    config = require_fields("agent.config", described["config"], [field.name for field in fields(make_config)])
    unknown = [name for name in tensors if name.split("/")[0] not in ("encoder", "policy", "optimizer")]
    if unknown:
        raise ValueError(f"weights must be of encoder, policy and optimizer, got {unknown[0]!r}")
    require_weights(tensors)
    encoder = restored_encoder("agent.encoder", described["encoder"], _part(tensors, "encoder/"))
    learner = make_config(**config)
    weights = sum(value.numel() for value in _part(tensors, "policy/").values())
    if learner.hidden**2 > weights:  # of one layer: before more memory is asked for than the file has
        raise ValueError(f"agent.config.hidden must be of {weights:,} weights, got {shown(learner.hidden)}")
    if not isinstance(described["name"], str):
        raise ValueError(f"agent.name must be a string, got {shown(described['name'])}")
    agent = make(encoder, learner, described["seed"], described["name"])
    agent.remember(settings["memory"])
    agent.policy.load_state_dict(_part(tensors, "policy/"))
    state = _optimizer_state(_part(tensors, "optimizer/"), [p.shape for p in agent.policy.parameters()])
    agent.optimizer.load_state_dict({**agent.optimizer.state_dict(), "state": state})
    agent.iteration = require_integer("iteration", settings["iteration"], 0)
    agent.steps_taken = require_integer("steps_taken", settings["steps_taken"], 0)
    agent.reward_sum = require_number("reward_sum", settings["reward_sum"])
    agent.reward_count = require_integer("reward_count", settings["reward_count"], 0)
    return agent


def _optimizer_state(tensors: dict[str, Tensor], shapes: list[torch.Size]) -> dict[int, dict[str, Tensor]]:
    """Adam's state by parameter: of all the parameters, or of none before the first step."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, entry = name.split("/", 1)
        state.setdefault(int(index), {})[entry] = value
    if state and set(state) != set(range(len(shapes))):
        raise ValueError(f"optimizer must have a state for {len(shapes)} parameters, got {len(state)}")
    for number, entries in state.items():
        moments = [entries[entry].shape for entry in entries if entry != "step"]
        if set(entries) != _ADAM_STATE or any(shape != shapes[number] for shape in moments):
            raise ValueError(
                f"optimizer must have Adam's state of parameter {number}, of shape {tuple(shapes[number])}"
            )
    return state


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
