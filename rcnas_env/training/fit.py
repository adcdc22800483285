"""The loop that trains one network adversarially from scratch."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD, lr_scheduler

from rcnas_env.data.augmentation import random_crop_flip
from rcnas_env.data.image_set import ImageSet
from rcnas_env.networks.frozen import freeze
from rcnas_env.seeding import derive_seed
from rcnas_env.training.compilation import Compiled, as_asked, require_compiler
from rcnas_env.training.inner_maximisation import perturb
from rcnas_env.training.memory import MicroBatch, keep_state
from rcnas_env.training.method import method_entry
from rcnas_env.training.recipe import Recipe


@dataclass(frozen=True)
class TrainingReport:
    """What a training did: mean loss of each epoch, wall seconds, and whether it diverged (stopped at once).

    micro_batch: the most images that went through the network at once in the end, at least 2, where memory ran out
        (`rcnas_env.training.memory`); None where it never did, and steps were whole.
    """

    losses: tuple[float, ...]
    seconds: float
    diverged: bool
    micro_batch: int | None = None


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
    """Evaluation mode with frozen parameters inside; training mode with those trainable that were before afterwards."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
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
    if recipe.schedule == "one-cycle" and total > 1:  # of one step it would be the last, with a rate of next to nothing
        return lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.learning_rate, total_steps=total, cycle_momentum=False)
    drops = [round(0.75 * total), round(0.9 * total)] if recipe.schedule == "step" else []
    return lr_scheduler.MultiStepLR(optimizer, milestones=drops, gamma=0.1)


class Trainer:
    """One network's training, a step at a time.

    Args:
        model: images in [0, 1] → logits, on `device`.
        recipe: batch size, method and all else.
        epsilon: L_inf radius trained against, in image units.
        generator: of the starts of the inner maximisation, on `device`.
        extra_loss: a scalar that is added to every step's loss, called once a step; None for none. Where a step is
            repeated for want of memory, a copy of it (copy.copy) as it was before the step takes its place.

    A step that runs out of memory is repeated in micro-batches, as `rcnas_env.training.memory` says; no step is
    compiled from then on.

    Raises:
        ValueError: the recipe's compilation does not work on the model's device.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        epsilon: float,
        generator: torch.Generator,
        extra_loss: Callable[[], Tensor] | None = None,
    ) -> None:
        self.model, self.recipe, self.epsilon, self.generator = model, recipe, epsilon, generator
        self.extra_loss = extra_loss
        self.micro_batch = MicroBatch(least=2)  # batch norm needs two images
        self.method = method_entry(recipe.method)
        self.dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
        self.optimizer = SGD(
            model.parameters(),
            recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self._frozen = freeze(model, self.dtype) if recipe.folded and self.method.inner_target else None
        require_compiler(recipe.compilation, next(model.parameters()).device)
        self._outer = as_asked(model, recipe)
        self._inner = self._outer if self._frozen is None else as_asked(self._frozen, recipe)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One optimizer step on one batch; returns its loss, a detached scalar.

        images: float32 (N, channels, height, width); labels: int64 (N,).
        """
        restore = self._keep_state()
        loss = self.micro_batch.run(len(labels), lambda: self._gradients(images, labels), restore)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip, foreach=True)
        self.optimizer.step()
        return loss

    def _gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Set the gradients of one step's loss, and return it, detached."""
        method = self.method
        self.optimizer.zero_grad(set_to_none=True)  # first: CUDA graphs would write over gradients in their memory
        perturbed = self.perturb(images, labels) if method.inner_target else None
        sizes, losses = self.micro_batch.shares(len(labels)), list[Tensor]()
        parts = [whole.split(sizes) for whole in (images, images if perturbed is None else perturbed, labels)]
        for clean, attacked, targets in zip(*parts, strict=True):
            with self._autocast(images):
                # one clean forward serves both terms: batch statistics, and so gradients, are the published two's
                clean_logits = self._outer(clean).float() if method.needs_clean_logits else None
                attacked_logits = self._outer(attacked).float() if method.needs_perturbed_logits else None
            loss = method.loss(clean_logits, attacked_logits, targets, self.recipe.beta)
            loss = loss * (len(targets) / len(labels))  # a mean over images; by 1.0, which changes no bit, if whole
            if self.extra_loss is not None and len(losses) == len(sizes) - 1:
                loss = loss + self.extra_loss()
            loss.backward()
            losses.append(loss.detach())
        return sum(losses[1:], start=losses[0])

    def _keep_state(self) -> Callable[[], None]:
        """A function that undoes what a step has changed before its optimizer's."""
        restore, extra_loss = keep_state(self.model, self.generator), copy.copy(self.extra_loss)

        def undo() -> None:
            """Go back to before the step; what is compiled runs as it is from now on."""
            restore()
            for network in (self._outer, self._inner):
                if isinstance(network, Compiled):
                    network.give_up()
            self.extra_loss = copy.copy(extra_loss)  # it may count its calls, as HARP's does

        return undo

    def perturb(self, images: Tensor, labels: Tensor) -> Tensor:
        """The images that the method trains on, in place of `images`; the model is in training mode afterwards."""
        recipe = self.recipe
        with frozen_eval(self.model), self._autocast(images):
            if self._frozen is not None:
                self._frozen.refresh()
            return perturb(
                self.micro_batch.divide(self._inner),
                images,
                labels,
                self.method,
                self.epsilon,
                recipe.relative_step * self.epsilon,
                recipe.inner_steps,
                self.generator,
            )

    def _autocast(self, images: Tensor) -> torch.autocast:
        return torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)


def _batch_of(chosen: ImageSet, padding: int | None, crops: torch.Generator) -> Tensor:
    """The chosen images as float32, channels last, augmented by crops of this border and flips unless it is None."""
    images = chosen.images(chosen.pixels.device).contiguous(memory_format=torch.channels_last)
    return images if padding is None else random_crop_flip(images, padding, crops)


def fit(
    model: nn.Module,
    data: ImageSet,
    recipe: Recipe,
    epsilon: float,
    seed: int,
    device: torch.device | str = "cpu",
    *,
    crop_padding: int | None = None,
    extra_loss: Callable[[], Tensor] | None = None,
) -> TrainingReport:
    """Train `model` in place by the recipe's method; leave it in eval mode.

    Same arguments, same number of threads: same weights, to the bit; on a GPU only as far as its kernels are
    deterministic, as cuDNN's gradients are not by default. Global random state is not touched.

    Args:
        model: images in [0, 1] → logits, on `device`.
        data: the training set, at least two images; moved to the device, and made float32 a batch at a time.
        recipe: epochs, batch size and all else.
        epsilon: L_inf radius trained against, in image units.
        seed: of the batch order, the augmentation and the inner starts.
        device: where to train.
        crop_padding: pixels of the random crops and flips that images are augmented by; None for no augmentation.
        extra_loss: a scalar that is added to every step's loss (a pruning's hardware cost), see `Trainer`.

    Returns:
        A report; with `diverged` True as soon as an epoch's loss is not finite, the weights then being useless.

    Raises:
        ValueError: the recipe's compilation does not work on `device`, or there are fewer than two images.
        NoRoomError: memory does not suffice for two images at once; each halving before is a MemoryWarning.
    """
    if len(data) < 2:
        raise ValueError(f"data must have at least two images, got {len(data)}")
    losses, start = list[float](), time.perf_counter()
    pixels, labels = data.pixels.to(device), data.labels.to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    order = torch.Generator().manual_seed(derive_seed(seed, "order"))
    noise = torch.Generator(device).manual_seed(derive_seed(seed, "inner start"))
    crops = torch.Generator(device).manual_seed(derive_seed(seed, "augmentation"))
    trainer = Trainer(model, recipe, epsilon, noise, extra_loss)
    last_batch_is_single = len(labels) % recipe.batch_size == 1
    steps_per_epoch = math.ceil(len(labels) / recipe.batch_size) - last_batch_is_single
    schedule = make_schedule(trainer.optimizer, recipe, steps_per_epoch)
    padding = crop_padding if recipe.augment else None
    model.train()
    with cpu_threads(recipe.threads):
        for _ in range(recipe.epochs):
            total = torch.zeros((), device=device)
            for batch in batches(len(labels), recipe.batch_size, order):
                batch = batch.to(device)
                images = _batch_of(ImageSet(pixels[batch], labels[batch], data.scale), padding, crops)
                total += len(batch) * trainer.step(images, labels[batch])
                schedule.step()
            losses.append(total.item() / (len(labels) - last_batch_is_single))
            if not math.isfinite(losses[-1]):
                break
    model.eval()
    diverged = not math.isfinite(losses[-1]) or not all(bool(p.isfinite().all()) for p in model.parameters())
    return TrainingReport(tuple(losses), time.perf_counter() - start, diverged, trainer.micro_batch.size)
