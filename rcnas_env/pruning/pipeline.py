"""Pre-train, learn which weights to keep, fine-tune them: HYDRA and HARP on any network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rcnas_env.data.image_set import ImageSet
from rcnas_env.pruning.macs import network_size, prunable_layers
from rcnas_env.pruning.mask import RatedMask, ScoredMask, top_mask
from rcnas_env.pruning.masking import fix_masks, put_scores, take_off_masks
from rcnas_env.pruning.rates import HardwareLoss, learnt_counts, uniform_counts
from rcnas_env.seeding import derive_seed
from rcnas_env.training.fit import TrainingReport, fit
from rcnas_env.training.recipe import Recipe, make_recipe
from rcnas_env.validation import require_choice, require_number

METHODS = ("hydra", "harp")

FLOOR = 0.1
"""Least share that HARP leaves a layer, in units of the share aimed at (α in the published code)."""

START = 0.1
"""Share that every layer of HARP starts from (the published code's uniform strategy), or the one aimed at if larger."""


@dataclass(frozen=True)
class PruningRecipes:
    """One recipe a phase. The defaults' epochs and learning rates are those published for HYDRA and HARP alike.

    pretrain: of the dense network.
    prune: of the scores (and HARP's shares), and of the batch norms; its weight decay acts on the scores too.
    finetune: of the surviving weights, the biases and the batch norms.

    Raises:
        ValueError: a phase is neither a Recipe nor a mapping of its fields, or a field is out of range.
    """

    pretrain: Recipe = field(default_factory=lambda: Recipe(epochs=100))
    prune: Recipe = field(default_factory=lambda: Recipe(epochs=20))
    finetune: Recipe = field(default_factory=lambda: Recipe(epochs=100, learning_rate=0.01))

    def __post_init__(self) -> None:
        for name in ("pretrain", "prune", "finetune"):
            object.__setattr__(self, name, make_recipe(getattr(self, name)))


@dataclass(frozen=True)
class PruningReport:
    """What a pruning left; see `rcnas_env.pruning.macs.NetworkSize` for the four sizes.

    A dense fast path does not skip zeros: `dense_macs` stay what they were before the pruning.

    keep_per_layer: share of the weights that are not zero, by the layer's name, in order.
    phases: training reports of "pretrain", "prune" and "finetune"; those after one that diverged are not there.
    """

    dense_macs: int
    nonzero_macs: int
    dense_params: int
    nonzero_params: int
    keep_per_layer: Mapping[str, float]
    phases: Mapping[str, TrainingReport]

    @property
    def diverged(self) -> bool:
        """Whether a phase diverged, the weights then being useless."""
        return any(report.diverged for report in self.phases.values())


def prune(
    model: nn.Module,
    data: ImageSet,
    method: str,
    keep: float,
    recipes: PruningRecipes,
    epsilon: float,
    seed: int,
    device: torch.device | str = "cpu",
    *,
    crop_padding: int | None = None,
) -> PruningReport:
    """Train `model` in place with a share `keep` of its weights; leave it a plain module in eval mode, with zeros.

    Three phases (both papers): train all weights; freeze them and learn importance scores instead, whose largest say
    which weights are kept; train those that are kept. Stem, shortcuts and classifier are pruned as every other
    convolution and linear layer; biases and batch norms are not, and batch norms go on learning in all phases (both
    papers' published code).

    "hydra" (Sehwag et al. 2020) keeps round(keep · n) weights of each layer's n. "harp" (Zhao & Wressnegger 2023)
    learns each layer's share too, under a hardware loss, and keeps round(keep · N) of the network's N weights. Every
    layer keeps at least one.

    Args:
        model: images in [0, 1] → logits, with convolutions and linear layers that carry no parametrisation.
        data: the training set.
        method: "hydra" or "harp".
        keep: share of the weights that is kept, in (0, 1].
        recipes: how each phase trains.
        epsilon: L_inf radius trained against, in image units.
        seed: of all three phases.
        device: where to train; `model` is moved there.
        crop_padding: pixels of the random crops and flips that images are augmented by; None for no augmentation.

    Raises:
        ValueError: an argument is out of range, or `model` has nothing to prune; nothing was trained then.
    """
    require_choice("method", method, METHODS)
    keep = require_number("keep", keep, minimum=0.0, maximum=1.0, exclusive_minimum=True)
    require_number("epsilon", epsilon, minimum=0.0, maximum=1.0)
    _require_recipes(recipes)
    if len(data) < 2:
        raise ValueError(f"data must have at least two images, got {len(data)}")
    _require_prunable(model)
    model.to(device)
    run = _Run(model, data, epsilon, seed, device, crop_padding)
    run.train("pretrain", recipes.pretrain)
    kept = (_hydra_masks if method == "hydra" else _harp_masks)(run, recipes.prune, keep)
    fix_masks(model, kept)
    run.train("finetune", recipes.finetune)
    take_off_masks(model)
    model.eval()
    return _report(model, data.subset(torch.arange(1)).images(device), run.reports)


@dataclass
class _Run:
    """What the phases have in common, and the reports of those that ran."""

    model: nn.Module
    data: ImageSet
    epsilon: float
    seed: int
    device: torch.device | str
    crop_padding: int | None
    reports: dict[str, TrainingReport] = field(default_factory=dict)

    def train(self, phase: str, recipe: Recipe, extra_loss: Callable[[], Tensor] | None = None) -> None:
        """Run a phase, unless an earlier one diverged."""
        if any(report.diverged for report in self.reports.values()):
            return
        self.reports[phase] = fit(
            self.model,
            self.data,
            recipe,
            self.epsilon,
            derive_seed(self.seed, "pruning", phase),
            self.device,
            crop_padding=self.crop_padding,
            extra_loss=extra_loss,
        )


def _hydra_masks(run: _Run, recipe: Recipe, keep: float) -> dict[str, Tensor]:
    """Put scores on the network and learn them; the final masks by layer."""
    masks = put_scores(run.model, lambda weight: ScoredMask(weight, keep))
    run.train("prune", recipe)
    return _kept(masks, uniform_counts([mask.scores.numel() for mask in masks.values()], keep))


def _harp_masks(run: _Run, recipe: Recipe, keep: float) -> dict[str, Tensor]:
    """Put scores and shares on the network and learn them; the final masks by layer."""
    masks = put_scores(run.model, lambda weight: RatedMask(weight, max(keep, START), FLOOR * keep))
    steps_per_epoch = _steps_per_epoch(len(run.data), recipe.batch_size)
    run.train("prune", recipe, HardwareLoss(list(masks.values()), keep, steps_per_epoch))
    return _kept(masks, _learnt_counts(list(masks.values()), keep))


def _kept(masks: Mapping[str, ScoredMask], counts: Sequence[int]) -> dict[str, Tensor]:
    """The final masks by layer, of so many ones."""
    return {name: top_mask(mask.scores, count) for (name, mask), count in zip(masks.items(), counts, strict=True)}


def _learnt_counts(masks: Sequence[RatedMask], keep: float) -> list[int]:
    """Weights that each layer keeps; HYDRA's where the training diverged, and the learnt shares say nothing."""
    sizes = [mask.scores.numel() for mask in masks]
    logits = [mask.rate_logit.item() for mask in masks]
    if not all(map(math.isfinite, logits)):
        return uniform_counts(sizes, keep)
    return learnt_counts(sizes, logits, FLOOR * keep, keep)


def _steps_per_epoch(images: int, batch_size: int) -> int:
    """Optimizer steps of an epoch of `fit`, which leaves out a last batch of one image."""
    return math.ceil(images / batch_size) - (images % batch_size == 1)


def _report(model: nn.Module, image: Tensor, phases: Mapping[str, TrainingReport]) -> PruningReport:
    """Measure the pruned network."""
    size = network_size(model, image)
    weights = {name: layer.weight for name, layer in prunable_layers(model).items()}
    return PruningReport(
        dense_macs=size.dense_macs,
        nonzero_macs=size.nonzero_macs,
        dense_params=size.dense_params,
        nonzero_params=size.nonzero_params,
        keep_per_layer={name: int(torch.count_nonzero(w)) / w.numel() for name, w in weights.items()},
        phases=phases,
    )


def _require_recipes(recipes: object) -> None:
    if not isinstance(recipes, PruningRecipes):
        raise ValueError(f"recipes must be PruningRecipes, got {recipes!r}")


def _require_prunable(model: nn.Module) -> None:
    layers = prunable_layers(model)
    if not layers:
        raise ValueError(f"model must have convolutions or linear layers to prune, got {type(model).__name__}")
    taken = [name for name, layer in layers.items() if parametrize.is_parametrized(layer)]
    if taken:
        raise ValueError(f"model must carry no parametrisation on what is pruned, got one on {taken[0]!r}")
