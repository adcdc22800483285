"""Built networks: shapes, blocks against plain recomputation, reproducible initialisation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnas_env.architecture import NetworkSpec, StageSpec, StemSpec
from rcnas_env.networks import BasicBlock, RobustBlock, build

torch.set_num_threads(1)

MIXED = NetworkSpec(
    stages=(StageSpec(2, 8), StageSpec(2, 16, downsample=True, robust=True), StageSpec(1, 12, downsample=True)),
    input=(3, 16, 16),
    classes=5,
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """Fill parameters and running statistics with values at which no term vanishes, in float64 and eval mode."""
    draws = generator(seed)
    module.double()
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=draws)
        elif tensor.is_floating_point():
            scale = 1 if tensor.dim() == 1 else 1 / math.sqrt(tensor[0].numel())
            tensor.normal_(std=scale, generator=draws)
    return module.eval()


def batch_norm(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Batch norm in eval mode, written out."""
    mean, variance, scale, shift = (
        weights[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift


def grouped_convolution(x: Tensor, weight: Tensor, groups: int, stride: int) -> Tensor:
    """A grouped 3×3 convolution as separate ones, one a group."""
    pairs = zip(x.chunk(groups, dim=1), weight.chunk(groups, dim=0), strict=True)
    return torch.cat([F.conv2d(part, filters, stride=stride, padding=1) for part, filters in pairs], dim=1)


def basic_block(weights: dict[str, Tensor], x: Tensor, stride: int) -> Tensor:
    """Zagoruyko & Komodakis 2016, from the published equations."""
    activated = batch_norm(weights, "bn1", x).clamp(min=0)
    out = F.conv2d(activated, weights["conv1.weight"], stride=stride, padding=1)
    out = F.conv2d(batch_norm(weights, "bn2", out).clamp(min=0), weights["conv2.weight"], padding=1)
    if stride == 1 and out.shape == x.shape:
        return out + x
    return out + F.conv2d(activated, weights["shortcut.weight"], stride=stride)


def robust_block(weights: dict[str, Tensor], x: Tensor, stride: int, planes: int) -> Tensor:
    """Huang et al. 2022, with scales as slices and squeeze-and-excitation as matrix products."""
    width = math.floor(planes * 10 / 160) * 4
    activated = batch_norm(weights, "bn1", x).clamp(min=0)
    wide = torch.einsum("oi,nihw->nohw", weights["conv1.weight"][:, :, 0, 0], activated)
    wide = batch_norm(weights, "bn2", wide).clamp(min=0)
    outputs: list[Tensor] = []
    for s in range(7):
        scale = wide[:, s * width : (s + 1) * width]
        if s > 0 and stride == 1:
            scale = scale + outputs[s - 1]
        scale = grouped_convolution(scale, weights[f"hierarchy.convs.{s}.weight"], 4, stride)
        outputs.append(batch_norm(weights, f"hierarchy.bns.{s}", scale).clamp(min=0))
    last = wide[:, 7 * width :]
    if stride > 1:
        last = F.pad(last, (1, 1, 1, 1)).unfold(2, 3, stride).unfold(3, 3, stride).mean(dim=(4, 5))
    out = F.conv2d(torch.cat([*outputs, last], dim=1), weights["conv3.weight"])
    normalised = batch_norm(weights, "bn3", out)
    hidden = (normalised.mean(dim=(2, 3)) @ weights["excitation.squeeze.weight"].T).clamp(min=0)
    share = 1 / (1 + torch.exp(-hidden @ weights["excitation.excite.weight"].T))
    identity = stride == 1 and x.shape[1] == 4 * planes
    shortcut = x if identity else F.conv2d(activated, weights["shortcut.weight"], stride=stride)
    return out + shortcut + normalised * share[:, :, None, None]


@pytest.mark.parametrize(("channels", "planes", "stride"), [(8, 8, 1), (6, 8, 1), (8, 8, 2), (3, 5, 2)])
@pytest.mark.parametrize("size", [(7, 6), (1, 1)])
def test_basic_block_is_its_equations(channels: int, planes: int, stride: int, size: tuple[int, int]) -> None:
    block = randomised(BasicBlock(channels, planes, stride), seed=1)
    x = torch.randn(2, channels, *size, generator=generator(2), dtype=torch.float64)
    expected = basic_block(dict(block.state_dict()), x, stride)
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("channels", "planes", "stride"), [(64, 16, 1), (24, 16, 1), (128, 32, 2), (20, 50, 2)])
@pytest.mark.parametrize("size", [(7, 6), (1, 1)])
def test_robust_block_is_its_equations(channels: int, planes: int, stride: int, size: tuple[int, int]) -> None:
    block = randomised(RobustBlock(channels, planes, stride), seed=3)
    x = torch.randn(2, channels, *size, generator=generator(4), dtype=torch.float64)
    expected = robust_block(dict(block.state_dict()), x, stride, planes)
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("block", [BasicBlock(64, 64), RobustBlock(64, 16)])
def test_identity_shortcuts_pass_the_raw_input_which_stays_as_it_is(block: nn.Module) -> None:
    randomised(block, seed=5)
    for name, tensor in block.state_dict().items():
        if name.startswith(("conv2.", "conv3.", "bn3.weight", "bn3.bias")):
            tensor.zero_()  # silences the residual branch; what is left is the shortcut
    x = torch.randn(2, 64, 3, 3, generator=generator(6), dtype=torch.float64)
    before = x.clone()
    torch.testing.assert_close(block(x), before, rtol=0, atol=0)
    assert torch.equal(x, before)


def test_a_robust_block_below_16_planes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"planes \(of a robust block\) must be an integer of at least 16, got 15"):
        RobustBlock(16, 15)


@pytest.mark.parametrize(
    ("spec", "images"),
    [
        (MIXED, (3, 16, 16)),
        (MIXED, (3, 9, 21)),
        (MIXED.with_data((1, 28, 28), 10), (1, 28, 28)),
        (NetworkSpec(tuple(StageSpec(1, 16, True, True) for _ in range(3)), input=(1, 8, 8)), (1, 8, 8)),
        (NetworkSpec((StageSpec(1, 1, True), StageSpec(1, 17, True, True)), StemSpec(1, 4), (2, 1, 5), 3), (2, 1, 5)),
    ],
)
def test_forward_gives_finite_logits_and_every_parameter_a_gradient(
    spec: NetworkSpec, images: tuple[int, int, int]
) -> None:
    network = build(spec)
    x = torch.rand(4, *images, generator=generator(0))
    logits = network(x)
    assert logits.shape == (4, spec.classes)
    assert logits.isfinite().all()
    F.cross_entropy(logits, torch.tensor([0, 1, 0, 1])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_in_eval_mode_each_image_is_classified_by_itself() -> None:
    network = build(MIXED).double().eval()
    x = torch.rand(3, *MIXED.input, generator=generator(0), dtype=torch.float64)
    alone = torch.cat([network(image[None]) for image in x])
    torch.testing.assert_close(network(x), alone, rtol=1e-10, atol=1e-10)


def test_the_network_is_its_stem_stages_and_head() -> None:
    network = randomised(build(NetworkSpec((StageSpec(1, 8, True),), StemSpec(4, 2), (3, 11, 8), 6)), seed=7)
    weights = dict(network.state_dict())
    x = torch.rand(2, 3, 11, 8, generator=generator(8), dtype=torch.float64)
    block = {name.removeprefix("stages.0.0."): tensor for name, tensor in weights.items()}
    features = basic_block(block, F.conv2d(x, weights["stem.weight"], stride=2, padding=1), stride=2)
    features = batch_norm(weights, "bn", features).clamp(min=0).mean(dim=(2, 3))
    expected = features @ weights["classifier.weight"].T + weights["classifier.bias"]
    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-10)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_weights_follow_from_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = build(MIXED, generator(5))
    torch.manual_seed(2)
    assert same_weights(first, build(MIXED, generator(5)))
    assert not same_weights(first, build(MIXED, generator(6)))
    assert same_weights(build(MIXED), build(MIXED, generator(0)))
    shared = generator(5)
    assert same_weights(first, build(MIXED, shared))
    assert not same_weights(first, build(MIXED, shared)), "a generator goes on, it does not start again"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_build_leaves_the_global_random_state_alone(device: str) -> None:
    before = torch.get_rng_state()
    build(MIXED, generator(1), device)
    build(MIXED, device=device)
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_weights_have_the_documented_distributions() -> None:
    network = build(NetworkSpec((StageSpec(2, 64, True, True), StageSpec(1, 96)), classes=100), generator(9))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 400]
    assert len(convolutions) >= 20
    for conv in convolutions:
        expected = math.sqrt(2 / (conv.kernel_size[0] ** 2 * conv.out_channels))
        error = 5 / math.sqrt(2 * conv.weight.numel())  # five standard errors of a standard deviation
        assert conv.weight.std().item() == pytest.approx(expected, rel=error)
    for linear in (m for m in network.modules() if isinstance(m, nn.Linear)):
        bound = 1 / math.sqrt(linear.in_features)
        assert 0.95 * bound < linear.weight.abs().max() <= bound
        assert abs(linear.weight.mean()) < 5 * bound / math.sqrt(3 * linear.weight.numel())
        assert linear.bias is None or not linear.bias.any()
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        state = norm.state_dict()
        assert all((state[name] == 1).all() for name in ("weight", "running_var"))
        assert not any(state[name].any() for name in ("bias", "running_mean", "num_batches_tracked"))


def test_build_ignores_a_default_device_and_keeps_meta_empty() -> None:
    with torch.device("meta"):
        on_cpu = build(MIXED)
    assert same_weights(on_cpu, build(MIXED))
    assert {p.device.type for p in build(MIXED, device="meta").parameters()} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_weights_and_logits() -> None:
    x = torch.rand(2, *MIXED.input, generator=generator(0), dtype=torch.float64)
    on_cpu, on_gpu = build(MIXED), build(MIXED, device="cuda")
    assert same_weights(on_cpu, on_gpu.cpu())
    logits = on_gpu.cuda().double().eval()(x.cuda()).cpu()
    torch.testing.assert_close(logits, on_cpu.double().eval()(x), rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_generator_is_refused() -> None:
    with pytest.raises(ValueError, match="generator must be a CPU generator, got one on 'cuda"):
        build(MIXED, torch.Generator("cuda"))
