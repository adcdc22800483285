"""Checkpoints of the agent: weights and optimizer as safetensors, the rest as JSON; written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from agents.state_encoder import StateEncoder
from agents.vpg import VPG, VPGConfig

FORMAT = 1


class CheckpointError(ValueError):
    """A folder that holds no checkpoint that this version can read; the message says why."""


def save_checkpoint(agent: VPG, folder: str | os.PathLike[str], extra: dict[str, Any] | None = None) -> None:
    """Save `agent` to `folder`, replacing what is there in one rename.

    Args:
        extra: JSON values to keep along, such as the environments' step count.
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
        "extra": extra or {},
    }
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".writing-"))
    try:
        save_file(
            {name: value.detach().contiguous().clone() for name, value in tensors.items()},
            temporary / "weights.safetensors",
        )
        (temporary / "agent.json").write_text(json.dumps(settings, indent=1, allow_nan=False), encoding="utf-8")
        if target.exists():
            replaced = target.with_name(f".replaced-{target.name}")
            shutil.rmtree(replaced, ignore_errors=True)
            os.replace(target, replaced)
            os.replace(temporary, target)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load_checkpoint(folder: str | os.PathLike[str]) -> tuple[VPG, dict[str, Any]]:
    """(agent, extra) as `save_checkpoint` left them: the agent goes on as if never interrupted.

    Raises:
        CheckpointError: the folder holds no readable checkpoint.
    """
    source = Path(folder)
    if not source.exists():  # killed between the two renames of a replacement
        source = source.with_name(f".replaced-{source.name}")
    try:
        settings = json.loads((source / "agent.json").read_text(encoding="utf-8"))
        tensors = load_file(source / "weights.safetensors")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {str(folder)!r} cannot be read: {error}") from None
    except Exception as error:  # safetensors' own error type has no common base
        raise CheckpointError(f"checkpoint {str(folder)!r} has damaged weights: {error}") from None
    try:
        return _restore(settings, tensors), dict(settings["extra"])
    except (KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {str(folder)!r} does not hold an agent: {error}") from None


def _restore(settings: dict[str, Any], tensors: dict[str, Tensor]) -> VPG:
    if settings["format"] != FORMAT:
        raise CheckpointError(f"checkpoint format must be {FORMAT}, got {settings['format']!r}")
    described = settings["agent"]
    encoder = StateEncoder(**described["encoder"])
    encoder.load_state_dict(_part(tensors, "encoder/"))
    agent = VPG(encoder, VPGConfig(**described["config"]), described["seed"], described["name"])
    agent.policy.load_state_dict(_part(tensors, "policy/"))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(tensors, "optimizer/").items():
        index, entry = name.split("/", 1)
        state.setdefault(int(index), {})[entry] = value
    agent.optimizer.load_state_dict({**agent.optimizer.state_dict(), "state": state})
    agent.iteration, agent.steps_taken = settings["iteration"], settings["steps_taken"]
    agent.reward_sum, agent.reward_count = settings["reward_sum"], settings["reward_count"]
    return agent


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
