"""What a stable-baselines3 model has learnt, as named tensors: networks, optimizers, temperature; no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def model_tensors(model: Any) -> dict[str, Tensor]:
    """Copies on the CPU of all that `model` (a BaseAlgorithm) needs to go on learning, replay buffer aside.

    Names are PART/ENTRY, such as policy/action_net.weight; of an optimizer PART/PARAMETER/ENTRY.
    """
    found: dict[str, Tensor] = {}
    for part, value in _parts(model).items():
        if isinstance(value, Tensor):
            found[part] = value
        elif isinstance(value, Optimizer):
            for number, entries in value.state_dict()["state"].items():
                found |= {f"{part}/{number}/{name}": torch.as_tensor(entry) for name, entry in entries.items()}
        else:
            found |= {f"{part}/{name}": entry for name, entry in value.state_dict().items()}
    return {name: value.detach().cpu().contiguous().clone() for name, value in found.items()}


def restore_model(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Give `model` what `model_tensors` took from one with the same settings.

    Raises:
        ValueError: a tensor is missing, unknown or of another shape.
    """
    parts = _parts(model)
    unknown = [name for name in tensors if name.split("/")[0] not in parts]
    if unknown:
        raise ValueError(f"weights must be of {', '.join(parts)}, got {unknown[0]!r}")
    try:
        for part, value in parts.items():
            own = {
                name.removeprefix(f"{part}/"): tensor for name, tensor in tensors.items() if name.split("/")[0] == part
            }
            if isinstance(value, Tensor):
                with torch.no_grad():
                    value.copy_(own[part])
            elif isinstance(value, Optimizer):
                value.load_state_dict({**value.state_dict(), "state": _by_parameter(own)})
            else:
                value.load_state_dict(own)
    except (LookupError, RuntimeError) as error:
        raise ValueError(f"weights must be of a model with the same settings: {error}") from None


def _by_parameter(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """An optimizer's state by the number of the parameter."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, entry = name.split("/")
        state.setdefault(int(number), {})[entry] = value.clone()
    return state


def _parts(model: Any) -> dict[str, Any]:
    """The model's networks, optimizers and single tensors, by stable-baselines3's own names for them."""
    found = {}
    for name in (entry for names in model._get_torch_save_params() for entry in names):
        value = model
        for attribute in name.split("."):
            value = getattr(value, attribute)
        found[name] = value
    return found
