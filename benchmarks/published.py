"""TRADES as its authors' code trains, written plainly: the baseline that our training is measured against.

Zhang et al. 2019, and the PyTorch code published with it. Kept from there, and differently done in
`rcnas_env.training`: the clean prediction is computed anew at every step of the inner maximisation; the outer loss
takes three forward passes, two of them of the clean images; parameters stay differentiable throughout; batches come
from a DataLoader over a data set that makes float tensors of one image at a time; NCHW memory, float32, the default
optimizer. An image costs 3 K + 9 forward passes' worth of multiply-accumulates, K being the inner steps.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, Dataset

from rcnas_env.data import ImageSet
from rcnas_env.networks.convolution import Convolution
from rcnas_env.seeding import derive_seed
from rcnas_env.training.fit import make_schedule
from rcnas_env.training.recipe import Recipe


def forward_equivalents(inner_steps: int) -> int:
    """Forward passes' worth of multiply-accumulates that one step takes an image.

    A backward pass counts 1 by the input alone and 2 by the weights too. An inner step has two forward passes and a
    backward one, the outer step three forward passes and theirs.
    """
    return 3 * inner_steps + 3 * 3


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images one at a time: from integers, height × width × channels, to a float32 tensor (channels, height, width).

    That is what torchvision's data sets do with the transform ToTensor.
    """

    def __init__(self, data: ImageSet) -> None:
        self._pixels = data.pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self._labels = data.labels.tolist()
        self._scale = data.scale

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(self._pixels[index]).permute(2, 0, 1).contiguous()
        return image.to(torch.float32).div(self._scale), self._labels[index]


def make_loader(
    data: ImageSet, batch_size: int, generator: torch.Generator, device: torch.device | str = "cpu"
) -> DataLoader[tuple[Tensor, int]]:
    """Shuffled batches of float images and labels, made in this process; for a GPU in another one, in pinned memory.

    A last batch of one image, which batch norm refuses, is left out.
    """
    single, gpu = len(data) % batch_size == 1, torch.device(device).type == "cuda"
    return DataLoader(
        ImageDataset(data),
        batch_size,
        shuffle=True,
        drop_last=single,
        generator=generator,
        num_workers=int(gpu),
        pin_memory=gpu,
        persistent_workers=gpu,  # the benchmark's epochs are too short to start a process for each
    )


def plain_network(network: nn.Module) -> nn.Module:
    """A copy of `network` with nn.Conv2d in place of our faster `Convolution`, all in NCHW memory."""
    plain = copy.deepcopy(network)
    for parent in list(plain.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Convolution):
                setattr(parent, name, _plain_convolution(child))
    return plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _plain_convolution(conv: Convolution) -> nn.Conv2d:
    with torch.device("meta"):  # where nothing is drawn
        plain = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=conv.bias is not None,
        )
    plain.weight, plain.bias = conv.weight, conv.bias
    return plain


def make_optimizer(model: nn.Module, recipe: Recipe) -> SGD:
    """SGD with the recipe's settings, by torch's default implementation."""
    return SGD(model.parameters(), recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def adversarial_images(
    model: nn.Module, images: Tensor, epsilon: float, recipe: Recipe, generator: torch.Generator
) -> Tensor:
    """Signed steps up KL(f(x) ‖ f(x̃)) from x + 0.001 · N(0, 1), each projected onto the ball, then [0, 1].

    Args:
        model: in eval mode.
        images: float32 (N, channels, height, width) in [0, 1].
        epsilon: L_inf radius in image units.
        recipe: steps, and their size as a share of epsilon.
        generator: of the start.
    """
    divergence = nn.KLDivLoss(reduction="sum")
    step_size = recipe.relative_step * epsilon
    noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    adversarial = images.detach() + 0.001 * noise
    for _ in range(recipe.inner_steps):
        adversarial.requires_grad_()
        loss = divergence(F.log_softmax(model(adversarial), dim=1), F.softmax(model(images), dim=1))
        gradient = torch.autograd.grad(loss, [adversarial])[0]
        adversarial = adversarial.detach() + step_size * torch.sign(gradient.detach())
        adversarial = torch.min(torch.max(adversarial, images - epsilon), images + epsilon)
        adversarial = torch.clamp(adversarial, 0.0, 1.0)
    return adversarial.detach()


def step(
    model: nn.Module,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    recipe: Recipe,
    generator: torch.Generator,
) -> Tensor:
    """One optimizer step on one batch; returns the loss, detached. See `adversarial_images` for the arguments."""
    divergence = nn.KLDivLoss(reduction="sum")
    model.eval()
    adversarial = adversarial_images(model, images, epsilon, recipe, generator)
    model.train()
    optimizer.zero_grad()
    logits = model(images)
    natural = F.cross_entropy(logits, labels)
    robust = divergence(F.log_softmax(model(adversarial), dim=1), F.softmax(model(images), dim=1)) / len(images)
    loss = natural + recipe.beta * robust
    loss.backward()
    optimizer.step()
    return loss.detach()


def train(
    model: nn.Module, data: ImageSet, recipe: Recipe, epsilon: float, seed: int, device: torch.device | str = "cpu"
) -> None:
    """Train `model` in place for the recipe's epochs, and leave it in eval mode.

    The learning rate follows the recipe's schedule, so that the job is the one that `rcnas_env.training.fit` does.
    """
    order = torch.Generator().manual_seed(derive_seed(seed, "order"))
    noise = torch.Generator(device=device).manual_seed(derive_seed(seed, "inner start"))
    loader = make_loader(data, recipe.batch_size, order, device)
    optimizer = make_optimizer(model, recipe)
    schedule = make_schedule(optimizer, recipe, len(loader))
    for _ in range(recipe.epochs):
        for images, labels in loader:
            step(model, optimizer, images.to(device), labels.to(device), epsilon, recipe, noise)
            schedule.step()
    model.eval()
