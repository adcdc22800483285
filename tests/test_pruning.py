"""Pruning: exact shares, published formulas, frozen weights, fixed masks, and both methods from end to end."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rcnas_env.cost import cost
from rcnas_env.data import ImageSet, load_splits
from rcnas_env.networks import build
from rcnas_env.pruning import METHODS, PruningRecipes, network_size, prune
from rcnas_env.pruning.macs import prunable_layers
from rcnas_env.pruning.mask import RatedMask, ScoredMask, initial_scores, top_mask
from rcnas_env.pruning.masking import fix_masks, put_scores, take_off_masks
from rcnas_env.pruning.rates import HardwareLoss, learnt_counts, uniform_counts
from rcnas_env.training.fit import fit
from rcnas_env.training.recipe import Recipe
from tests import tiny

EPSILON = 0.1
RECIPES = PruningRecipes(tiny.RECIPE, tiny.RECIPE, tiny.RECIPE)


def digits(count: int) -> ImageSet:
    """The first training images of the digits."""
    return load_splits("digits", 30).train.subset(torch.arange(count))


def scored(keep: float = 0.3) -> tuple[nn.Module, dict[str, ScoredMask]]:
    """A small network in the prune phase of HYDRA."""
    model = tiny.built()
    return model, put_scores(model, lambda weight: ScoredMask(weight, keep))


def rated(start: float = 0.5, floor: float = 0.02) -> tuple[nn.Module, dict[str, RatedMask]]:
    """A small network in the prune phase of HARP."""
    model = tiny.built()
    return model, put_scores(model, lambda weight: RatedMask(weight, start, floor))


@given(st.integers(1, 60), st.data())
def test_a_mask_keeps_exactly_the_largest(size: int, data: st.DataObject) -> None:
    scores = torch.tensor(
        data.draw(st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0]), min_size=size, max_size=size))
    )
    count = data.draw(st.integers(1, size))
    mask = top_mask(scores, count)
    assert set(mask.tolist()) <= {0.0, 1.0} and mask.sum().item() == count
    assert torch.equal(mask, top_mask(scores, torch.tensor(float(count))))
    magnitude = scores.abs()
    if count < size:
        assert magnitude[mask == 1].min() >= magnitude[mask == 0].max()


def test_a_mask_does_not_depend_on_the_memory_layout() -> None:
    scores = torch.randn(6, 4, 3, 3, generator=tiny.generator())
    assert torch.equal(top_mask(scores, 50), top_mask(scores.contiguous(memory_format=torch.channels_last), 50))


@pytest.mark.parametrize(("shape", "fan_in"), [((6, 4, 3, 3), 36), ((5, 7), 7), ((8, 2, 1, 1), 2)])
def test_initial_scores_are_scaled_weights(shape: tuple[int, ...], fan_in: int) -> None:
    weight = torch.randn(shape, generator=tiny.generator())
    largest = max(abs(w) for w in weight.flatten().tolist())
    for score, w in zip(initial_scores(weight).flatten().tolist(), weight.flatten().tolist(), strict=True):
        assert score == pytest.approx(math.sqrt(6 / fan_in) * w / largest, rel=1e-5)
    assert torch.equal(top_mask(initial_scores(weight), 5), top_mask(weight, 5))  # magnitude pruning, at first
    assert torch.equal(initial_scores(torch.zeros(3, 4)), torch.zeros(3, 4))


@pytest.mark.parametrize("learns_rate", [False, True])
@pytest.mark.parametrize("layer", [nn.Conv2d(4, 6, 3, groups=2), nn.Linear(4, 6)])
def test_gradients_pass_straight_through_the_ranking(layer: nn.Conv2d | nn.Linear, learns_rate: bool) -> None:
    layer, floor = layer.double(), 0.03
    weight = torch.randn(layer.weight.shape, generator=tiny.generator(), dtype=torch.float64)
    mask = RatedMask(weight, 0.4, floor) if learns_rate else ScoredMask(weight, 0.4)
    with torch.no_grad():
        mask.scores.normal_(generator=tiny.generator(1))
    x = torch.randn((5, 4, 6, 6) if isinstance(layer, nn.Conv2d) else (5, 4), generator=tiny.generator(2)).double()
    masked = mask(weight)
    kept = round(0.4 * weight.numel())
    assert torch.equal(masked, weight * top_mask(mask.scores, kept)) and torch.count_nonzero(masked).item() == kept

    def loss(w: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": w}, (x,)).square().sum()

    loss(masked).backward()
    dense = masked.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(dense), dense)
    torch.testing.assert_close(
        mask.scores.grad, gradient * weight * mask.scores.detach().sign(), rtol=1e-10, atol=1e-12
    )
    if isinstance(mask, RatedMask):
        assert mask.rate_logit.grad is not None
        share = torch.sigmoid(mask.rate_logit.detach())
        expected = (gradient * weight).sum() * (1 - floor) * share * (1 - share)
        torch.testing.assert_close(mask.rate_logit.grad, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("start", "floor"), [(0.1, 0.001), (0.5, 0.05)])
def test_a_learnt_share_is_a_sigmoid_above_its_floor(start: float, floor: float) -> None:
    mask = RatedMask(torch.randn(8, 9, generator=tiny.generator()), start, floor)
    assert mask.rate().item() == pytest.approx(start, rel=1e-5)
    for logit, share in ((-1e3, floor), (0.0, floor + (1 - floor) / 2), (1e3, 1.0)):
        mask.rate_logit.data.fill_(logit)
        assert mask.rate().item() == pytest.approx(share, rel=1e-6)
        assert mask.count().item() == max(1, round(share * 72))
    assert RatedMask(torch.ones(4, 4), 1.0, 0.1).rate().item() == pytest.approx(0.1 + 0.9 * 0.99)


@given(st.floats(1e-4, 1.0), st.lists(st.integers(1, 5_000), min_size=1, max_size=12))
def test_uniform_counts_keep_the_share_of_each_layer(keep: float, sizes: list[int]) -> None:
    for count, size in zip(uniform_counts(sizes, keep), sizes, strict=True):
        assert 1 <= count <= size
        assert count == 1 or abs(count - keep * size) <= 0.5


@settings(deadline=None)
@given(st.floats(1e-4, 1.0), st.lists(st.tuples(st.integers(1, 5_000), st.floats(-20, 20)), min_size=1, max_size=12))
def test_learnt_counts_keep_exactly_the_share_of_the_network(keep: float, layers: list[tuple[int, float]]) -> None:
    sizes, logits = [size for size, _ in layers], [logit for _, logit in layers]
    floor = 0.1 * keep
    counts = learnt_counts(sizes, logits, floor, keep)
    assert sum(counts) == max(round(keep * sum(sizes)), len(sizes))
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))
    # a whole weight that another layer must have may come off the floor
    spared = sum(max(0.0, 1 - floor * size) for size in sizes)
    assert all(count >= math.floor(floor * size) - spared for count, size in zip(counts, sizes, strict=True))


def test_learnt_counts_are_the_learnt_shares_where_those_meet_the_target() -> None:
    sizes, keep = [100, 300, 600], 0.2
    shares = [0.5, 0.3, 0.1]  # 50 + 90 + 60 = 0.2 · 1000
    floor = 0.1 * keep
    logits = [math.log(s / (1 - s)) for s in ((share - floor) / (1 - floor) for share in shares)]
    assert learnt_counts(sizes, logits, floor, keep) == [50, 90, 60]
    assert learnt_counts(sizes, [logit + 3.0 for logit in logits], floor, keep) == [50, 90, 60]  # a shift is undone


def test_hardware_loss_is_the_published_hinge() -> None:
    masks = [RatedMask(torch.ones(size, 1), share, 0.01) for size, share in ((100, 0.5), (300, 0.2))]
    loss = HardwareLoss(masks, 0.1, steps_per_epoch=1)
    assert loss.excess().item() == pytest.approx((100 * 0.5 + 300 * 0.2) / (0.1 * 400) - 1, rel=1e-5)
    assert loss().item() == pytest.approx(0.01 * loss.excess().item(), rel=1e-6)
    loss.excess().backward()
    for mask, size in zip(masks, (100, 300), strict=True):
        position, gradient = torch.sigmoid(mask.rate_logit.detach()).item(), mask.rate_logit.grad
        assert gradient is not None
        assert gradient.item() == pytest.approx(size / 40 * 0.99 * position * (1 - position), rel=1e-5)
    assert HardwareLoss(masks, 0.3, 1).excess().item() == 0.0  # 110 of 400 are fewer than 120


def test_weight_of_the_hardware_loss_grows_by_the_epoch_until_reached() -> None:
    mask = RatedMask(torch.ones(100, 1), 0.5, 0.01)
    loss, gammas = HardwareLoss([mask], 0.1, steps_per_epoch=3), []
    for step in range(18):
        if step == 8:  # inside the third epoch: below the target from here on
            mask.rate_logit.data.fill_(-4.0)
        if step == 13:
            mask.rate_logit.data.fill_(4.0)
        loss()
        gammas.append(loss.gamma)
    assert gammas == pytest.approx([0.01] * 3 + [0.02] * 3 + [0.03] * 12)


class Toy(nn.Module):
    """A 3×3 convolution, 2 → 3 channels, stride 2, padding 1; batch norm; global mean; a classifier of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.bn(self.conv(images)).mean(dim=(2, 3)))


def test_size_of_a_network_by_hand() -> None:
    toy = Toy()
    nn.init.ones_(toy.conv.weight)
    nn.init.ones_(toy.fc.weight)
    image = torch.zeros(1, 2, 5, 5)
    size = network_size(toy, image)
    # 3·2·9 weights on 3×3 pixels, and 3·4; biases 3 + 4, batch norm 2·3
    assert (size.dense_macs, size.dense_params) == (54 * 9 + 12, 54 + 12 + 7 + 6)
    assert (size.nonzero_macs, size.nonzero_params) == (size.dense_macs, size.dense_params)
    with torch.no_grad():
        toy.conv.weight[0] = 0.0  # 18 weights
        toy.fc.weight[:, 0] = 0.0  # 4 weights
    size = network_size(toy, image)
    assert (size.dense_macs, size.nonzero_macs) == (54 * 9 + 12, 36 * 9 + 8)
    assert (size.dense_params, size.nonzero_params) == (79, 79 - 22)
    assert toy.training and not toy.conv._forward_hooks
    toy.bn.eval()
    network_size(toy, image)
    assert toy.training and toy.conv.training and not toy.bn.training


@pytest.mark.parametrize("spec", [tiny.STUDENT, tiny.network(16, robust=True)])
def test_dense_size_is_the_closed_form_of_the_spec(spec: tiny.NetworkSpec) -> None:
    size = network_size(build(spec, tiny.generator()), torch.zeros(1, *spec.input))
    assert (size.dense_params, size.dense_macs) == (cost(spec).params, cost(spec).macs)


def test_masks_go_on_and_come_off() -> None:
    before = tiny.built()
    model, masks = scored(keep=1.0)
    assert torch.equal(model.eval()(tiny.images()), before.eval()(tiny.images()))  # everything is kept
    learnt = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d | ScoredMask) for p in m.parameters()}
    assert {id(parameter) for parameter in model.parameters()} == learnt
    fix_masks(model, {name: top_mask(mask.scores, 3) for name, mask in masks.items()})
    take_off_masks(model)
    assert list(model.state_dict()) == list(before.state_dict())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in before.named_parameters()]
    for name, layer in prunable_layers(model).items():
        dense = before.get_submodule(name).weight
        assert type(layer) is type(before.get_submodule(name)) and not parametrize.is_parametrized(layer)
        assert torch.equal(layer.weight, dense * top_mask(dense, 3)) and layer.weight.requires_grad


@pytest.mark.parametrize("folded", [False, True])
def test_weights_and_biases_rest_while_scores_learn(folded: bool) -> None:
    model, masks = scored()
    frozen = {name: value.clone() for name, value in model.named_buffers() if name.endswith(("original", "bias"))}
    scores = {name: mask.scores.detach().clone() for name, mask in masks.items()}
    scale = model.get_submodule("bn").weight.detach().clone()
    report = fit(model, digits(256), tiny.RECIPE.but(folded=folded), EPSILON, seed=0)
    assert not report.diverged and len(frozen) == len(masks) + 1  # the classifier alone has a bias
    assert all(torch.equal(dict(model.named_buffers())[name], value) for name, value in frozen.items())
    assert all(not torch.equal(mask.scores, scores[name]) for name, mask in masks.items())
    assert not torch.equal(model.get_submodule("bn").weight, scale)


def test_masks_rest_while_weights_learn() -> None:
    model, masks = scored(keep=0.2)
    kept = {name: top_mask(mask.scores, mask.count()) for name, mask in masks.items()}
    fix_masks(model, kept)
    before = {name: layer.weight.detach().clone() for name, layer in prunable_layers(model).items()}
    fit(model, digits(256), tiny.RECIPE, EPSILON, seed=0)
    take_off_masks(model)
    for name, layer in prunable_layers(model).items():
        assert torch.equal((layer.weight != 0).float(), kept[name])
        assert not torch.equal(layer.weight, before[name])


def test_shares_learn_under_the_hardware_loss_and_respect_their_floor() -> None:
    keep, floor = 0.2, 0.02
    recipe = tiny.RECIPE.but(epochs=2, learning_rate=0.2)
    model, masks = rated(start=0.5, floor=floor)
    pushed, pushed_masks = rated(start=0.5, floor=floor)
    fit(model, digits(256), recipe, EPSILON, seed=0)
    loss = HardwareLoss(list(pushed_masks.values()), keep, steps_per_epoch=2)
    fit(pushed, digits(256), recipe, EPSILON, seed=0, extra_loss=lambda: 100 * loss())
    shares, pushed_shares = ([m.rate().item() for m in which.values()] for which in (masks, pushed_masks))
    assert all(abs(share - 0.5) > 1e-5 for share in shares) and len(set(shares)) == len(shares)
    assert all(floor < share < 1 for share in (*shares, *pushed_shares))
    kept, pushed_kept = (HardwareLoss(list(which.values()), keep, 1).excess() for which in (masks, pushed_masks))
    assert pushed_kept < kept


@pytest.mark.parametrize("method", METHODS)
def test_a_pruned_network_is_plain_sparse_and_better_than_chance(method: str) -> None:
    state = torch.get_rng_state()
    model = build(tiny.STUDENT, tiny.generator())
    report = prune(model, load_splits("digits", 30).train, method, 0.3, RECIPES, EPSILON, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(report.phases) == ["pretrain", "prune", "finetune"] and not report.diverged
    shapes, expected = (
        [(name, value.shape) for name, value in net.state_dict().items()] for net in (model, build(tiny.STUDENT))
    )
    assert shapes == expected
    assert not model.training and not any(parametrize.is_parametrized(module) for module in model.modules())
    weights = {name: layer.weight for name, layer in prunable_layers(model).items()}
    sizes = [weight.numel() for weight in weights.values()]
    kept = [int(torch.count_nonzero(weight)) for weight in weights.values()]
    assert report.keep_per_layer == {n: k / s for n, k, s in zip(weights, kept, sizes, strict=True)}
    if method == "hydra":
        assert kept == [round(0.3 * size) for size in sizes]
    else:
        assert sum(kept) == round(0.3 * sum(sizes)) and kept != uniform_counts(sizes, 0.3)
        assert all(k >= math.floor(0.03 * size) for k, size in zip(kept, sizes, strict=True))
    assert (report.dense_params, report.dense_macs) == (cost(tiny.STUDENT).params, cost(tiny.STUDENT).macs)
    assert report.nonzero_params == report.dense_params - sum(sizes) + sum(kept)
    assert 0 < report.nonzero_macs < report.dense_macs
    test = load_splits("digits", 30).test
    with torch.no_grad():
        accuracy = (model(test.images()).argmax(1) == test.labels).float().mean().item()
    assert accuracy > 0.2  # chance is 0.1; 0.28 to 0.37, by seed


def test_same_seed_same_weights_to_the_bit() -> None:
    states = []
    for seed, padding in ((0, None), (0, None), (1, None), (0, 1)):
        model = build(tiny.STUDENT, tiny.generator())
        prune(model, digits(256), "harp", 0.3, RECIPES, EPSILON, seed, crop_padding=padding)
        states.append([*model.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(states[0], states[1], strict=True))
    for other in states[2:]:
        assert not all(torch.equal(a, b) for a, b in zip(states[0], other, strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("phase", ["pretrain", "prune"])
def test_a_divergence_ends_the_training_and_leaves_a_plain_network(method: str, phase: str) -> None:
    wild = tiny.RECIPE.but(learning_rate=1e30, schedule="constant")
    recipes = PruningRecipes(**{f.name: wild if f.name == phase else tiny.RECIPE for f in fields(PruningRecipes)})
    model = build(tiny.STUDENT, tiny.generator())
    report = prune(model, digits(130), method, 0.3, recipes, EPSILON, seed=0)
    assert report.diverged and list(report.phases)[-1] == phase
    assert not any(parametrize.is_parametrized(module) for module in model.modules())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "magnitude"}, "^method must be one of 'hydra', 'harp', got 'magnitude'$"),
        ({"keep": 0.0}, "^keep must be a finite number, above 0 and at most 1, got 0.0$"),
        ({"keep": 1.5}, "^keep must be .*, got 1.5$"),
        ({"keep": math.nan}, "^keep must be .*, got nan$"),
        ({"epsilon": -0.1}, "^epsilon must be .*, got -0.1$"),
        ({"recipes": Recipe()}, "^recipes must be PruningRecipes, got Recipe"),
        ({"data": digits(1)}, "^data must have at least two images, got 1$"),
        ({"model": nn.Sequential(nn.Flatten())}, "^model must have convolutions or linear layers to prune, got Seq"),
        ({"model": scored()[0]}, "^model must carry no parametrisation on what is pruned, got one on 'stem'$"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_trained(changes: dict[str, object], message: str) -> None:
    model = tiny.built()
    arguments = {"model": model, "data": digits(64), "method": "hydra", "keep": 0.5, "recipes": RECIPES}
    with pytest.raises(ValueError, match=message):
        prune(**{**arguments, "epsilon": EPSILON, "seed": 0, **changes})  # type: ignore[arg-type]
    expected = tiny.built().state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), expected, strict=True))


def test_recipes_are_read_from_mappings_and_checked() -> None:
    recipes = PruningRecipes(prune={"epochs": 3})  # type: ignore[arg-type]
    assert recipes.prune == Recipe(epochs=3)
    assert (recipes.pretrain.epochs, recipes.finetune.epochs, recipes.finetune.learning_rate) == (100, 100, 0.01)
    with pytest.raises(ValueError, match="^recipe must be a Recipe or a mapping"):
        PruningRecipes(prune=3)  # type: ignore[arg-type]
