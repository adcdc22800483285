"""TRADES against its definition (Zhang et al. 2019), written out here in plain sums."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from rcnas_env.training.fit import Trainer
from rcnas_env.training.inner_maximisation import INITIAL_NOISE, Model, perturb
from rcnas_env.training.method import method_entry
from rcnas_env.training.recipe import Recipe
from rcnas_env.training.trades import trades_loss
from tests import tiny


def trades_perturb(
    model: Model, images: Tensor, epsilon: float, step_size: float, steps: int, generator: torch.Generator
) -> Tensor:
    """TRADES' inner maximisation, which no label enters."""
    no_labels = torch.empty(0, dtype=torch.long)
    return perturb(model, images, no_labels, method_entry("trades"), epsilon, step_size, steps, generator)


def reference_loss(clean: Tensor, perturbed: Tensor, labels: Tensor, beta: float) -> Tensor:
    """CE(f(x), y) + β · KL(softmax f(x) ‖ softmax f(x̃)), mean over images, one image and one class at a time."""
    total = clean.new_zeros(())
    for z, z_adv, y in zip(clean, perturbed, labels, strict=True):
        p, q = z.exp() / z.exp().sum(), z_adv.exp() / z_adv.exp().sum()
        total = total - p[y].log() + beta * sum(p[k] * (p[k].log() - q[k].log()) for k in range(len(p)))
    return total / len(labels)


def reference_perturb(
    model: nn.Module, images: Tensor, epsilon: float, step_size: float, steps: int, seed: int
) -> Tensor:
    """The inner loop of TRADES' published recipe: the clean prediction anew at every step, nn.KLDivLoss, two clamps."""
    criterion = nn.KLDivLoss(reduction="sum")
    perturbed = images + 0.001 * torch.randn(images.shape, generator=tiny.generator(seed))
    for _ in range(steps):
        perturbed = perturbed.detach().requires_grad_()
        loss = criterion(torch.log_softmax(model(perturbed), dim=1), torch.softmax(model(images), dim=1))
        (gradient,) = torch.autograd.grad(loss, perturbed)
        perturbed = perturbed.detach() + step_size * gradient.sign()
        perturbed = torch.min(torch.max(perturbed, images - epsilon), images + epsilon)
        perturbed = torch.clamp(perturbed, 0.0, 1.0)
    return perturbed


def divergence(model: nn.Module, images: Tensor, perturbed: Tensor) -> Tensor:
    """KL(softmax f(x) ‖ softmax f(x̃)) of each image."""
    with torch.no_grad():
        p, q = torch.log_softmax(model(images).double(), 1), torch.log_softmax(model(perturbed).double(), 1)
    return (p.exp() * (p - q)).sum(1)


def smooth_model(seed: int = 0) -> nn.Sequential:
    """A two-layer perceptron with tanh, in float64."""
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=tiny.generator(seed := seed + 1))
    return model


def smooth_batch() -> tuple[Tensor, Tensor, Tensor]:
    """(inputs, perturbed inputs, labels) for `smooth_model`."""
    x = torch.rand(6, 5, generator=tiny.generator(8), dtype=torch.float64)
    x_adv = x + 0.3 * torch.randn(6, 5, generator=tiny.generator(9), dtype=torch.float64)
    return x, x_adv, torch.tensor([0, 1, 2, 3, 0, 1])


def frozen(model: nn.Module) -> nn.Module:
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_loss_is_the_definition(beta: float) -> None:
    model, (x, x_adv, y) = smooth_model(), smooth_batch()
    expected = reference_loss(model(x), model(x_adv), y, beta)
    assert trades_loss(model(x), model(x_adv), y, beta).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_gradient_is_that_of_the_definition(beta: float) -> None:
    model, (x, x_adv, y) = smooth_model(), smooth_batch()
    parameters = list(model.parameters())
    ours = torch.autograd.grad(trades_loss(model(x), model(x_adv), y, beta), parameters)
    theirs = torch.autograd.grad(reference_loss(model(x), model(x_adv), y, beta), parameters)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-12)


def test_gradient_is_the_finite_difference() -> None:
    model, (x, x_adv, y) = smooth_model(), smooth_batch()

    def loss() -> Tensor:
        return trades_loss(model(x), model(x_adv), y, 6.0)

    gradients = torch.autograd.grad(loss(), list(model.parameters()))
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        flat = parameter.data.view(-1)
        for i in range(len(flat)):
            kept, losses = flat[i].item(), []
            for shift in (1e-5, -1e-5):
                flat[i] = kept + shift
                losses.append(loss().item())
            flat[i] = kept
            assert gradient.view(-1)[i].item() == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-5, abs=1e-8)


def test_loss_without_a_perturbation_is_cross_entropy_and_with_one_is_more() -> None:
    model, (x, x_adv, y) = smooth_model(), smooth_batch()
    clean = nn.functional.cross_entropy(model(x), y).item()
    assert trades_loss(model(x), model(x), y, 6.0).item() == pytest.approx(clean, rel=1e-12)
    assert trades_loss(model(x), model(x_adv), y, 6.0).item() > clean


def test_loss_of_extreme_logits_is_finite() -> None:
    clean, perturbed = torch.tensor([[1e4, 0.0], [0.0, 1e4]]), torch.tensor([[1e4, 0.0], [1e4, 0.0]])
    loss = trades_loss(clean, perturbed, torch.tensor([0, 1]), 6.0)
    assert loss.item() == pytest.approx(6.0 * 1e4 / 2)  # the second image's prediction is turned round


@pytest.mark.parametrize(("steps", "share"), [(1, 0.25), (3, 0.25), (10, 0.25), (3, 1.0)])
@pytest.mark.parametrize("robust", [False, True])
def test_inner_maximisation_is_the_published_loop(steps: int, share: float, robust: bool) -> None:
    model = frozen(tiny.built(tiny.network(16, robust=True) if robust else tiny.STUDENT))
    x, epsilon = tiny.images(16), 0.1
    ours = trades_perturb(model, x, epsilon, share * epsilon, steps, tiny.generator(5))
    theirs = reference_perturb(model, x, epsilon, share * epsilon, steps, seed=5)
    # rounding may turn the sign of a vanishing gradient, and with it one pixel
    assert ((ours - theirs).abs() < 1e-6).float().mean().item() > 0.995
    inside = (theirs - x).abs() < epsilon - 1e-3
    if steps == 3 and share == 0.25:
        assert inside.float().mean() > 0.5  # so that the start shows, and not only the ball's surface


def test_inner_maximisation_starts_from_the_noise_of_its_generator() -> None:
    x = tiny.images()
    start = trades_perturb(lambda batch: 0 * batch.flatten(1)[:, :3], x, 0.1, 0.01, 1, tiny.generator(5))
    noise = torch.randn(x.shape, generator=tiny.generator(5))
    torch.testing.assert_close(start, (x + INITIAL_NOISE * noise).clamp(0, 1), rtol=0, atol=1e-7)
    assert INITIAL_NOISE == 0.001


def test_perturbed_images_stay_in_the_ball_and_in_range() -> None:
    model = frozen(tiny.built())
    x = torch.cat([tiny.images(), torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)])
    for step in (0.025, 5.0):
        perturbed = trades_perturb(model, x, 0.1, step, 10, tiny.generator())
        assert (perturbed - x).abs().max().item() <= 0.1 + 1e-7
        assert perturbed.min().item() >= 0.0 and perturbed.max().item() <= 1.0
        assert (perturbed - x).abs().max().item() > 0.09
        assert not perturbed.requires_grad


def test_perturbation_raises_the_divergence_of_every_image() -> None:
    model, x = frozen(tiny.built()), tiny.images(32)
    noise = (x + 0.1 * torch.randn(x.shape, generator=tiny.generator(7)).sign()).clamp(0, 1)
    one, ten = (trades_perturb(model, x, 0.1, 0.025, steps, tiny.generator()) for steps in (1, 10))
    assert (divergence(model, x, ten) > divergence(model, x, one)).all()
    assert (divergence(model, x, ten) > divergence(model, x, noise)).all()  # as far away, in no direction


def test_generator_determines_the_perturbation() -> None:
    model, x = frozen(tiny.built()), tiny.images()
    first, again, other = (trades_perturb(model, x, 0.1, 0.025, 2, tiny.generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_inputs_and_global_random_state_are_left_alone() -> None:
    model, x = frozen(tiny.built()), tiny.images()
    before, state = x.clone(), torch.get_rng_state()
    trades_perturb(model, x, 0.1, 0.025, 2, tiny.generator())
    assert torch.equal(x, before) and not x.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_step_gives_the_published_step_with_two_clean_forwards() -> None:
    recipe, epsilon = Recipe(inner_steps=3, folded=False, gradient_clip=0.5), 0.1
    ours, x, y = tiny.built(), tiny.images(32), tiny.labels(32)
    theirs = copy.deepcopy(ours)
    stream = tiny.generator()
    trainer = Trainer(ours, recipe, epsilon, stream)
    their_optimizer = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    for seed in (4, 5):  # two steps, so that the momentum shows
        before = [parameter.detach().clone() for parameter in theirs.parameters()]
        stream.manual_seed(seed)
        loss = trainer.step(x, y)

        frozen(theirs)
        x_adv = trades_perturb(theirs, x, epsilon, epsilon / 4, 3, tiny.generator(seed))
        theirs.train().requires_grad_(True)
        their_optimizer.zero_grad()
        natural = nn.CrossEntropyLoss()(theirs(x), y)
        log_q = torch.log_softmax(theirs(x_adv), dim=1)
        divergence_sum = nn.KLDivLoss(reduction="sum")(log_q, torch.softmax(theirs(x), dim=1))
        their_loss = natural + 6.0 * divergence_sum / len(x)
        their_loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        assert norm.item() > 1.0  # so that the clipping shows
        their_optimizer.step()

        assert loss.item() == pytest.approx(their_loss.item(), rel=1e-5)
        for mine, reference, old in zip(ours.parameters(), theirs.parameters(), before, strict=True):
            assert (mine - reference).norm().item() <= 1e-4 * (reference - old).norm().item() + 1e-7
        # the third forward moved the published loop's running statistics once more; nothing else differs
        theirs.load_state_dict(ours.state_dict())
