"""The loop that trains one network adversarially from scratch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD, lr_scheduler

from rcnas_env.data.image_set import ImageSet
from rcnas_env.networks.folding import FoldedTwin
from rcnas_env.seeding import derive_seed
from rcnas_env.training.recipe import Recipe
from rcnas_env.training.trades import trades_loss, trades_perturb


@dataclass(frozen=True)
class TrainingReport:
    """What a training did: mean loss of each epoch, wall seconds, and whether it diverged (stopped at once)."""

    losses: tuple[float, ...]
    seconds: float
    diverged: bool


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Use `count` CPU threads inside, as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with frozen parameters inside; training mode with trainable parameters afterwards."""
    model.eval()
    model.requires_grad_(False)
    try:
        yield
    finally:
        model.requires_grad_(True)
        model.train()


def batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Shuffled index batches of one epoch (CPU int64); a last batch of one image is left out (batch norm)."""
    order = torch.randperm(count, generator=generator)
    for batch in order.split(batch_size):
        if len(batch) > 1:
            yield batch


def make_schedule(optimizer: SGD, recipe: Recipe, steps_per_epoch: int) -> lr_scheduler.LRScheduler:
    """The learning rate as a function of the step, by the recipe's name for it."""
    total = recipe.epochs * steps_per_epoch
    if recipe.schedule == "one-cycle":
        return lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.learning_rate, total_steps=total, cycle_momentum=False)
    drops = [round(0.75 * total), round(0.9 * total)] if recipe.schedule == "step" else []
    return lr_scheduler.MultiStepLR(optimizer, milestones=drops, gamma=0.1)


def fit(
    model: nn.Module, data: ImageSet, recipe: Recipe, epsilon: float, seed: int, device: torch.device | str = "cpu"
) -> TrainingReport:
    """Train `model` in place, by TRADES; leave it in eval mode.

    Same model, data, recipe, seed, device and number of threads: same weights, to the bit. Global random
    state is not touched.

    Args:
        model: images in [0, 1] → logits, on `device`.
        data: the training set.
        recipe: epochs, batch size and all else.
        epsilon: L_inf radius trained against, in image units.
        seed: of the batch order and of the inner starts.
        device: where to train.

    Returns:
        A report; with `diverged` True as soon as an epoch's loss is not finite, the weights then being useless.
    """
    start = time.perf_counter()
    images, labels = data.images(device).contiguous(memory_format=torch.channels_last), data.labels.to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    order = torch.Generator().manual_seed(derive_seed(seed, "order"))
    noise = torch.Generator(device=device).manual_seed(derive_seed(seed, "inner start"))
    optimizer = SGD(
        model.parameters(), recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    last_batch_is_single = len(labels) % recipe.batch_size == 1
    twin = FoldedTwin(model) if recipe.folded else None
    schedule = make_schedule(optimizer, recipe, math.ceil(len(labels) / recipe.batch_size) - last_batch_is_single)
    losses: list[float] = []
    with cpu_threads(recipe.threads):
        for _ in range(recipe.epochs):
            total = torch.zeros((), device=device)
            for batch in batches(len(labels), recipe.batch_size, order):
                batch = batch.to(device)
                loss = _step(model, twin, images[batch], labels[batch], recipe, epsilon, noise, optimizer)
                total += len(batch) * loss
                schedule.step()
            losses.append(total.item() / (len(labels) - last_batch_is_single))
            if not math.isfinite(losses[-1]):
                break
    model.eval()
    diverged = not math.isfinite(losses[-1]) or not all(bool(p.isfinite().all()) for p in model.parameters())
    return TrainingReport(tuple(losses), time.perf_counter() - start, diverged)


def _step(
    model: nn.Module,
    twin: FoldedTwin | None,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    epsilon: float,
    noise: torch.Generator,
    optimizer: SGD,
) -> Tensor:
    """One optimizer step on one batch; returns its loss, a detached scalar."""
    autocast = torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bf16")
    with frozen_eval(model), autocast:
        if twin is not None:
            twin.refresh()
        attacked = model if twin is None else twin.module
        step_size = recipe.relative_step * epsilon
        perturbed = trades_perturb(attacked, images, epsilon, step_size, recipe.inner_steps, noise)
    optimizer.zero_grad(set_to_none=True)
    with autocast:
        # one clean forward serves both terms: batch statistics, and so gradients, are those of the published two
        clean_logits, perturbed_logits = model(images), model(perturbed)
    loss = trades_loss(clean_logits.float(), perturbed_logits.float(), labels, recipe.beta)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
    optimizer.step()
    return loss.detach()
