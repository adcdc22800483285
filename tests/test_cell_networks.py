"""Networks of cells as modules: operations and cells against plain recomputation, gradients, real training."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnas_env.architecture import named_network
from rcnas_env.cell_architecture import OPERATIONS, CellNetworkSpec
from rcnas_env.cell_rivals import ADVRUSH, RACL, ROBNET_LARGE_V2
from rcnas_env.cost import cost
from rcnas_env.evaluation.work import measure, train
from rcnas_env.networks import CellNetwork, build
from rcnas_env.networks.cell_operations import FactorizedReduction, make_operation
from tests import tiny

torch.set_num_threads(1)

RIVALS = {"advrush": (ADVRUSH, True), "racl": (RACL, True), "robnet": (ROBNET_LARGE_V2, False)}


def small(rival: str, input: tuple[int, int, int] = (1, 8, 8)) -> CellNetworkSpec:
    genotype, affine = RIVALS[rival]
    return CellNetworkSpec(genotype, 5, 4, affine, input=input)


def plain_batch_norm(x: Tensor) -> Tensor:
    """Batch norm in train mode with scale 1 and shift 0."""
    mean, variance = x.mean(dim=(0, 2, 3), keepdim=True), x.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(variance + 1e-5)


def plain_reduction(weights: list[Tensor], x: Tensor) -> Tensor:
    """Even pixels through one matrix, odd ones through the other; zeros beyond the edge."""
    padded = F.pad(x.clamp(min=0), (0, 1, 0, 1))
    height, width = x.shape[2:]
    views = padded[:, :, 0:height:2, 0:width:2], padded[:, :, 1 : height + 1 : 2, 1 : width + 1 : 2]
    pairs = zip(weights, views, strict=True)
    halves = [torch.einsum("oi,nihw->nohw", weight[:, :, 0, 0], view) for weight, view in pairs]
    return plain_batch_norm(torch.cat(halves, dim=1))


def plain_separable(weights: list[Tensor], x: Tensor, stride: int, dilation: int) -> Tensor:
    """Depthwise and 1×1 convolution, channel by channel, once for each two weights."""
    while weights:
        depthwise, pointwise, *weights = weights
        padding = dilation * (depthwise.shape[-1] - 1) // 2
        maps = [
            F.conv2d(channel[:, None], kernel[None], stride=stride, padding=padding, dilation=dilation)
            for channel, kernel in zip(x.clamp(min=0).unbind(1), depthwise, strict=True)
        ]
        x = plain_batch_norm(torch.einsum("oi,nihw->nohw", pointwise[:, :, 0, 0], torch.cat(maps, dim=1)))
        stride = 1
    return x


def plain_pool(x: Tensor, stride: int, greatest: bool) -> Tensor:
    """3×3 mean or maximum of the pixels inside the image."""
    outside = -math.inf if greatest else 0.0
    windows = F.pad(x, (1, 1, 1, 1), value=outside).unfold(2, 3, stride).unfold(3, 3, stride)
    if greatest:
        return windows.amax(dim=(4, 5))
    inside = F.pad(torch.ones_like(x), (1, 1, 1, 1)).unfold(2, 3, stride).unfold(3, 3, stride).sum(dim=(4, 5))
    return windows.sum(dim=(4, 5)) / inside


def plain_operation(name: str, weights: list[Tensor], x: Tensor, stride: int) -> Tensor:
    """Every operation, from DARTS' and RobNet's definitions."""
    if name == "none":
        return x[:, :, ::stride, ::stride] * 0
    if name == "skip_connect":
        return x if stride == 1 else plain_reduction(weights, x)
    if "pool" in name:
        return plain_pool(x, stride, greatest=name.startswith("max"))
    if name == "res_sep_conv_3x3":
        shortcut = plain_operation("skip_connect", weights[4:], x, stride)
        return plain_separable(weights[:4], x, stride, 1) + shortcut
    return plain_separable(weights, x, stride, 2 if name.startswith("dil") else 1)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 1)])
def test_operations_are_their_definitions(name: str, stride: int, size: tuple[int, int]) -> None:
    operation = make_operation(name, 4, stride, affine=False).double()
    x = torch.randn(3, 4, *size, generator=tiny.generator(1), dtype=torch.float64)
    with torch.no_grad():
        for weight in operation.parameters():
            weight.normal_(generator=tiny.generator(weight.numel()))
    before = x.clone()
    expected = plain_operation(name, [weight.detach() for weight in operation.parameters()], x, stride)
    torch.testing.assert_close(operation(x), expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(x, before), "an operation may not change its input, which others read too"


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="operation must be one of 'none'.*got 'conv_9x9'"):
        make_operation("conv_9x9", 4, 1, True)


@pytest.mark.parametrize("rival", RIVALS)
def test_a_network_is_its_stem_cells_and_head(rival: str) -> None:
    spec = small(rival, (2, 12, 9))
    network = build(spec, tiny.generator(4)).double()  # in train mode, where batch norms are plain_batch_norm
    x = torch.rand(3, 2, 12, 9, generator=tiny.generator(5), dtype=torch.float64)
    first = last = plain_batch_norm(F.conv2d(x, network.stem.weight, padding=1))
    halves_first = False
    for position, cell in enumerate(network.cells):
        convolutions = iter([m.weight for m in cell.modules() if isinstance(m, nn.Conv2d)])
        reduces = position in (1, 3)  # of 5 cells
        if halves_first:
            states = [plain_reduction([next(convolutions), next(convolutions)], first)]
        else:
            states = [plain_batch_norm(F.conv2d(first.clamp(min=0), next(convolutions)))]
        states.append(plain_batch_norm(F.conv2d(last.clamp(min=0), next(convolutions))))
        for node in spec.genotype.reduce if reduces else spec.genotype.normal:
            total = torch.zeros(())
            for name, state in node:
                stride = 2 if reduces and state < 2 else 1
                count = {"sep": 4, "dil": 2, "res": 4 if stride == 1 else 6, "ski": 2 * (stride - 1)}.get(name[:3], 0)
                weights = [next(convolutions) for _ in range(count)]
                total = total + plain_operation(name, weights, states[state], stride)
            states.append(total)
        assert next(convolutions, None) is None
        first, last, halves_first = last, torch.cat(states[2:], dim=1), reduces
    expected = last.mean(dim=(2, 3)) @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(network(x), expected, rtol=1e-8, atol=1e-8)


def test_a_factorised_reduction_takes_every_other_pixel_from_both_grids() -> None:
    reduction = FactorizedReduction(1, 2, affine=False).eval()
    with torch.no_grad():
        reduction.conv_even.weight.fill_(1)
        reduction.conv_odd.weight.fill_(1)
    even, odd = reduction(torch.arange(9.0).view(1, 1, 3, 3))[0] * math.sqrt(1 + 1e-5)
    torch.testing.assert_close(even, torch.tensor([[0.0, 2.0], [6.0, 8.0]]))
    torch.testing.assert_close(odd, torch.tensor([[4.0, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 21), (3, 64, 64)])
def test_forward_gives_finite_logits_and_every_parameter_a_gradient(rival: str, shape: tuple[int, int, int]) -> None:
    network = build(small(rival, shape))
    logits = network(torch.rand(4, *shape, generator=tiny.generator(0)))
    assert logits.shape == (4, 10)
    assert logits.isfinite().all()
    F.cross_entropy(logits, torch.tensor([0, 1, 0, 1])).backward()
    gradients = [p.grad for p in network.parameters()]
    assert all(g is not None and g.isfinite().all() and g.any() for g in gradients)


@pytest.mark.parametrize("rival", RIVALS)
def test_batch_norms_in_cells_are_affine_where_the_spec_says(rival: str) -> None:
    network = build(small(rival))
    norms = [m for m in network.cells.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert {norm.affine for norm in norms} == {RIVALS[rival][1]}
    assert network.bn.affine


def test_networks_of_named_rivals_start_from_64_by_64_with_a_strided_stem() -> None:
    at_32, at_64 = (named_network("RACL-1@4", (3, size, size)) for size in (32, 64))
    assert isinstance(at_64, CellNetworkSpec)
    assert at_64.stem_stride == 2
    assert cost(at_64) == cost(at_32)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("rival", RIVALS)
def test_weights_follow_from_the_generator_alone(rival: str) -> None:
    before = torch.get_rng_state()
    first = build(small(rival), tiny.generator(5))
    assert isinstance(first, CellNetwork)
    assert torch.equal(torch.get_rng_state(), before)
    assert same_weights(first, build(small(rival), tiny.generator(5)))
    assert not same_weights(first, build(small(rival), tiny.generator(6)))
    assert {p.device.type for p in build(small(rival), device="meta").parameters()} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("rival", RIVALS)
def test_a_gpu_gets_the_same_weights_and_logits(rival: str) -> None:
    x = torch.rand(2, 1, 8, 8, generator=tiny.generator(0), dtype=torch.float64)
    on_cpu, on_gpu = build(small(rival)), build(small(rival), device="cuda")
    assert same_weights(on_cpu, on_gpu.cpu())
    logits = on_gpu.cuda().double().eval()(x.cuda()).cpu()
    torch.testing.assert_close(logits, on_cpu.double().eval()(x), rtol=1e-9, atol=1e-9)


def test_initial_weights_have_the_documented_distribution() -> None:
    network = build(CellNetworkSpec(RACL, 5, 48), tiny.generator(9))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 400]
    assert {conv.groups > 1 for conv in convolutions} == {False, True}
    for conv in convolutions:
        expected = math.sqrt(2 / (conv.kernel_size[0] ** 2 * conv.out_channels / conv.groups))
        error = 5 / math.sqrt(2 * conv.weight.numel())  # five standard errors of a standard deviation
        assert conv.weight.std().item() == pytest.approx(expected, rel=error)


@pytest.mark.parametrize("network", [build(small("racl")), build(tiny.network())])
def test_the_middle_layer_puts_out_a_feature_map_that_the_logits_depend_on(network: nn.Module) -> None:
    seen: list[Tensor] = []
    network.middle_layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits = network(tiny.images())
    (features,) = seen
    assert features.shape[0] == 6
    assert features.shape[2:] == (4, 4)  # after one of two reductions of 8×8 pixels
    assert torch.autograd.grad(logits.sum(), features)[0].any()


def test_folded_pairs_are_convolutions_whose_output_the_batch_norm_takes() -> None:
    network = build(small("advrush")).eval()
    outputs: dict[int, Tensor] = {}
    inputs: dict[int, Tensor] = {}
    pairs = [pair for m in network.modules() if hasattr(m, "folded_pairs") for pair in m.folded_pairs()]
    for conv, norm in pairs:
        conv.register_forward_hook(lambda m, i, o: outputs.__setitem__(id(m), o))
        norm.register_forward_hook(lambda m, i, o: inputs.__setitem__(id(m), i[0]))
    network(tiny.images())
    assert all(outputs[id(conv)] is inputs[id(norm)] for conv, norm in pairs)
    norms = {id(m) for m in network.modules() if isinstance(m, nn.BatchNorm2d)}
    after_two = {id(m.bn) for m in network.modules() if isinstance(m, FactorizedReduction)}
    assert len(pairs) == len(norms) - len(after_two)
    assert {id(norm) for _, norm in pairs} == norms - after_two


def test_a_cell_network_is_trained_and_measured_as_any_other() -> None:
    job = tiny.job(named_network("AdvRush-1@4", (1, 8, 8)))  # type: ignore[arg-type]
    report, weights = train(job)
    assert not report["diverged"]
    assert report["network"] == job.network.to_dict()
    evaluation, _ = measure(job, report, weights)
    assert (evaluation.params, evaluation.macs) == (cost(job.network).params, cost(job.network).macs)
    assert evaluation.images == 30
    assert 0 <= evaluation.robust_accuracy <= evaluation.clean_accuracy <= 1
    assert evaluation.clean_accuracy > 0.2, "thirteen steps teach more than chance"
