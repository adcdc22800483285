"""The one way to run an attack: guarded, in batches, checked, with verdicts from the images that it returns."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rcnas_env.attacks.alarms import (
    warn_if_black_box_wins,
    warn_if_gradients_vanish,
    warn_if_probabilities,
    warn_if_random,
)
from rcnas_env.attacks.attack import Attack, is_correct
from rcnas_env.attacks.guard import attack_guard
from rcnas_env.attacks.progress import AttackProgress, ProgressFile
from rcnas_env.validation import require_integer


@dataclass(frozen=True)
class AttackResult:
    """What an attack did to N images; all tensors on the images' device.

    adversarial: float32 (N, channels, height, width), in [0, 1] and within eps of the images.
    clean_correct: bool (N,), classified correctly without an attack.
    robust: bool (N,), correct without an attack and on `adversarial`. Logits with a NaN are not correct.
    """

    adversarial: Tensor
    clean_correct: Tensor
    robust: Tensor


def run_attack(
    attack: Attack,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    batch_size: int,
    progress: AttackProgress | None = None,
    judge: nn.Module | None = None,
) -> AttackResult:
    """Attack `model` on `images` and leave model and random streams as they were (`attack_guard`).

    The result depends on the arguments alone, `batch_size` among them, not on any global random state; on a GPU to
    the bit only as far as the model's own operations are deterministic there.

    Args:
        attack: of `attack_entry(name).make(eps, classes)`.
        model: images → logits (N, attack.classes); attacked in eval mode.
        images: float32 in [0, 1], (N, channels, height, width); N may be 0.
        labels: int64 (N,), in [0, attack.classes), on the images' device.
        seed: in [0, 2**63).
        batch_size: images a forward pass, at least 1.
        progress: where to keep how far the attack has come; the same call after an interruption goes on from there,
            and its result is to the bit that of a run without one, for components that draw from their generator or
            seed the global streams, as all here do. None keeps nothing.
        judge: the network whose verdicts count, in eval mode, where `model` is a faster implementation of it: an image
            that misleads `model` alone, by a margin of rounding errors, stands and is attacked further. None: `model`.

    Raises:
        ValueError: an argument is outside these ranges, the model returns other than attack.classes logits, or the
            attack leaves the ball or [0, 1] by more than 1e-6.
        ImportError: the attack needs a package that is not installed.

    Warns:
        AttackWarning: of an attack with `alarms`, see `rcnas_env.attacks.alarms`.
    """
    seed = require_integer("seed", seed, 0, 2**63 - 1)
    batch_size = require_integer("batch_size", batch_size, 1)
    _require_images(images)
    _require_labels(labels, images, attack.classes)
    if not len(images):
        return AttackResult(images.detach().clone(), *labels.new_zeros(2, 0, dtype=torch.bool))
    with attack_guard(model, seed, images.device):
        images, labels = images.detach().clone(), labels.clone()
        logits = _logits(model, images, batch_size)
        _require_logits(logits, images, attack.classes)
        judge = model if judge is None else judge
        clean_correct = is_correct(logits if judge is model else _logits(judge, images, batch_size), labels)
        if attack.alarms:
            _sound_model_alarms(model, images, labels, logits, clean_correct, batch_size)
        generator = torch.Generator(images.device).manual_seed(seed)
        verdicts = () if judge is model else (clean_correct,)
        file = _file(progress, attack, seed, batch_size, images, labels, logits, *verdicts)
        adversarial, broken = attack.perturb(model, images, labels, clean_correct, generator, batch_size, file, judge)
        if attack.alarms:
            warn_if_black_box_wins(broken, [each.name for each in attack.components if each.black_box], len(images))
        robust = clean_correct & is_correct(_logits(judge, adversarial, batch_size), labels)
    if file is not None:
        file.remove()
    return AttackResult(adversarial, clean_correct, robust)


def _logits(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Logits (N, classes) of all images, in batches."""
    with torch.no_grad():
        return torch.cat([model(batch).float() for batch in images.split(batch_size)])


def _file(progress: AttackProgress | None, attack: Attack, *arguments: Any) -> ProgressFile | None:
    """Where this attack keeps how far it has come; None for nowhere."""
    return None if progress is None else progress.file(_digest(attack, *arguments))


def _digest(attack: Attack, seed: int, batch_size: int, *tensors: Tensor) -> str:
    """SHA-256 of all that an attack's result depends on; of a model its logits, of another judge its verdicts, on the
    clean images.
    """
    components = [[component.name, component.settings] for component in attack.components]
    device = tensors[0].device.type  # whose generators draw other numbers than another type's
    tensors = tuple(tensor.detach().cpu().contiguous() for tensor in tensors)
    layout = [[str(tensor.dtype), list(tensor.shape)] for tensor in tensors]
    kind = [attack.name, attack.revision, attack.eps, attack.classes, attack.perturb_wrong, components]
    settings = [*kind, seed, batch_size, device]
    digest = hashlib.sha256(json.dumps([settings, layout]).encode())
    for tensor in tensors:
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _sound_model_alarms(
    model: nn.Module, images: Tensor, labels: Tensor, logits: Tensor, clean_correct: Tensor, batch_size: int
) -> None:
    """Look for a model that cannot be attacked as it is, on one batch."""
    warn_if_random(model, images[:batch_size])
    warn_if_probabilities(logits[:batch_size])
    attacked = clean_correct.nonzero().squeeze(1)[:batch_size]
    if len(attacked):
        warn_if_gradients_vanish(model, images[attacked], labels[attacked])


def _require_logits(logits: Tensor, images: Tensor, classes: int) -> None:
    if logits.shape != (len(images), classes):
        raise ValueError(f"model must return {classes} logits an image, got {tuple(logits.shape[1:])}")


def _require_images(images: Tensor) -> None:
    if images.dim() != 4 or images.dtype != torch.float32:
        raise ValueError(
            "images must be float32 of shape (N, channels, height, width), "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    if images.numel():
        low, high = images.min().item(), images.max().item()
        if not 0.0 <= low <= high <= 1.0:  # so written, NaN is an error too
            raise ValueError(f"images must be in [0, 1], got values from {low:g} to {high:g}")


def _require_labels(labels: Tensor, images: Tensor, classes: int) -> None:
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1] or labels.device != images.device:
        raise ValueError(
            f"labels must be int64 of shape ({len(images)},) on {images.device}, "
            f"got {labels.dtype} of shape {tuple(labels.shape)} on {labels.device}"
        )
    if labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if not 0 <= low <= high < classes:
            raise ValueError(f"labels must be in [0, {classes}), got values from {low} to {high}")
