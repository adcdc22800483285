"""The state encoder among the tensors that an agent is saved as, checked before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from agents.state_encoder import StateEncoder
from rcnas_env.validation import require_fields, require_integer


def restored_encoder(field: str, sizes: object, tensors: Mapping[str, Tensor]) -> StateEncoder:
    """The encoder of the `sizes` that a file describes under `field`, with the weights that it holds.

    Raises:
        ValueError: sizes are missing, or ask for more weights than there are, or the weights are not the encoder's.
    """
    require_weights(tensors)
    described = _sizes(field, sizes, sum(value.numel() for value in tensors.values()))
    encoder = StateEncoder(**described)
    try:
        encoder.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"weights must be those of an encoder of {field}'s sizes: {error}") from None
    return encoder


def require_weights(tensors: Mapping[str, Tensor]) -> None:
    """Raise a ValueError for a tensor that is no float32, or not finite: it would fail far from here."""
    for name, value in tensors.items():
        if value.dtype != torch.float32 or not bool(value.isfinite().all()):
            raise ValueError(f"weights must be finite float32, got {value.dtype} or values that are not in {name!r}")


def _sizes(field: str, value: object, weights: int) -> dict[str, Any]:
    """The sizes; raises a ValueError for those of an encoder that would have more weights than there are."""
    given = require_fields(field, value, ("n_eval", "stages", "hidden", "state"))
    sizes = {name: require_integer(f"{field}.{name}", given[name], 1) for name in given}
    n_eval, stages, hidden, state = (sizes[name] for name in ("n_eval", "stages", "hidden", "state"))
    # of the matrices alone, both directions of the LSTM and both layers of each stage's MLP; biases are more
    fewest = 8 * hidden**2 + stages * (4 * state * (n_eval + hidden) + 2 * state**2)
    if fewest > weights:
        raise ValueError(f"{field} must have sizes of {weights:,} weights, got sizes of {fewest:,} or more")
    return sizes
