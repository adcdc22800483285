"""Training methods by name: what the inner maximisation moves away from, and the loss that is then minimised.

>>> method_entry("mart").inner_target
'label'

Looking a method up imports no torch: a loss is imported when it is first called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rcnas_env.registry import Registry
from rcnas_env.validation import require_choice

if TYPE_CHECKING:
    from torch import Tensor

Loss = Callable[["Tensor | None", "Tensor | None", "Tensor", float], "Tensor"]
"""(clean logits, perturbed logits, labels, β) → scalar, the mean over images; logits are (N, classes), labels (N,)."""

INNER_TARGETS = ("clean prediction", "label")
STARTS = ("gaussian", "uniform")


@dataclass(frozen=True)
class TrainingMethod:
    """How a network is trained on one batch.

    name: as looked up, "trades" for instance.
    inner_target: the distribution t of the soft cross-entropy −Σ_k t_k log p_k(x̃) that the inner maximisation
        raises: "clean prediction" (softmax of the logits of x in eval mode), "label" (one-hot), or None for no
        inner maximisation.
    needs_clean_logits, needs_perturbed_logits: which forward passes in training mode the loss takes; it is given
        None for the other.
    loss: see `Loss`.
    start: where the inner maximisation starts: "gaussian" (x + 0.001 · N(0, 1)) or "uniform" (x + U(−ε, ε));
        without meaning where there is no inner maximisation.
    summary: one line for a table.

    Raises:
        ValueError: a field has another value, the loss takes no logits, or it takes those of perturbed images
            though nothing perturbs them.
    """

    name: str
    inner_target: Literal["clean prediction", "label"] | None
    needs_clean_logits: bool
    needs_perturbed_logits: bool
    loss: Loss
    start: Literal["gaussian", "uniform"] = "gaussian"
    summary: str = ""

    def __post_init__(self) -> None:
        if self.inner_target is not None:
            require_choice("method.inner_target", self.inner_target, INNER_TARGETS)
        require_choice("method.start", self.start, STARTS)
        if not (self.needs_clean_logits or self.needs_perturbed_logits):
            raise ValueError(
                "method.needs_clean_logits or method.needs_perturbed_logits must be true, got false for both"
            )
        if self.needs_perturbed_logits and self.inner_target is None:
            raise ValueError("method.needs_perturbed_logits must be false where inner_target is None, got true")


_METHODS: Registry[TrainingMethod] = Registry("training method")


def register_method(method: TrainingMethod) -> None:
    """Make a training method known by its name.

    Raises:
        ValueError: the name is taken.
    """
    _METHODS.register(method.name, method)


def method_entry(name: str) -> TrainingMethod:
    """The training method `name`.

    Raises:
        UnknownNameError: there is none.
    """
    return _METHODS[name]


def known_methods() -> tuple[str, ...]:
    """The names of all registered training methods."""
    return tuple(_METHODS)


def _given(field: str, logits: Tensor | None) -> Tensor:
    """Return `logits`, which must be there."""
    if logits is None:
        raise ValueError(f"{field} must be a tensor (N, classes) for this training method, got None")
    return logits


def _trades(clean_logits: Tensor | None, perturbed_logits: Tensor | None, labels: Tensor, beta: float) -> Tensor:
    from rcnas_env.training.trades import trades_loss

    clean, perturbed = _given("clean_logits", clean_logits), _given("perturbed_logits", perturbed_logits)
    return trades_loss(clean, perturbed, labels, beta)


def _mart(clean_logits: Tensor | None, perturbed_logits: Tensor | None, labels: Tensor, beta: float) -> Tensor:
    from rcnas_env.training.mart import mart_loss

    clean, perturbed = _given("clean_logits", clean_logits), _given("perturbed_logits", perturbed_logits)
    return mart_loss(clean, perturbed, labels, beta)


def _sat(clean_logits: Tensor | None, perturbed_logits: Tensor | None, labels: Tensor, beta: float) -> Tensor:
    from rcnas_env.training.sat import sat_loss

    return sat_loss(_given("perturbed_logits", perturbed_logits), labels)


def _clean(clean_logits: Tensor | None, perturbed_logits: Tensor | None, labels: Tensor, beta: float) -> Tensor:
    from rcnas_env.training.clean import clean_loss

    return clean_loss(_given("clean_logits", clean_logits), labels)


register_method(
    TrainingMethod(
        "trades",
        inner_target="clean prediction",
        needs_clean_logits=True,
        needs_perturbed_logits=True,
        loss=_trades,
        summary="TRADES (Zhang et al. 2019): cross-entropy on clean images + β · KL(clean ‖ perturbed)",
    )
)
register_method(
    TrainingMethod(
        "sat",
        inner_target="label",
        needs_clean_logits=False,
        needs_perturbed_logits=True,
        loss=_sat,
        start="uniform",
        summary="standard adversarial training (Madry et al. 2018): cross-entropy on perturbed images",
    )
)
register_method(
    TrainingMethod(
        "mart",
        inner_target="label",
        needs_clean_logits=True,
        needs_perturbed_logits=True,
        loss=_mart,
        summary="MART (Wang et al. 2020): boosted cross-entropy + β · KL weighted by 1 − p_y(x)",
    )
)
register_method(
    TrainingMethod(
        "clean",
        inner_target=None,
        needs_clean_logits=True,
        needs_perturbed_logits=False,
        loss=_clean,
        summary="cross-entropy on clean images",
    )
)
