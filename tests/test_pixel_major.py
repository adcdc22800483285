"""Pixel-major feature maps: the same convolutions, batch norms and networks as channels-last ones, to rounding."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from rcnas_env.architecture import NetworkSpec, StageSpec
from rcnas_env.networks import pixel_major, scales
from rcnas_env.networks.batch_norm import BatchNorm
from rcnas_env.networks.convolution import Convolution
from tests import tiny

MIXED = NetworkSpec(
    (StageSpec(2, 16, robust=True), StageSpec(2, 32, downsample=True), StageSpec(2, 80, downsample=True, robust=True)),
    input=(1, 8, 8),
)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=tiny.generator(seed))


def test_the_layout_and_back() -> None:
    x = draw(4, 3, 5, 2, seed=1)
    laid = pixel_major.lay_out(x)
    assert torch.equal(laid, x) and laid.stride() == (3, 1, 2 * 4 * 3, 4 * 3)
    assert pixel_major.is_pixel_major(laid) and pixel_major.lay_out(laid).data_ptr() == laid.data_ptr()
    for other in (x, x.contiguous(memory_format=torch.channels_last), x[0]):
        assert not pixel_major.is_pixel_major(other)
    volume = pixel_major.volume(laid)
    assert volume.shape == (1, 3, 5, 2, 4) and volume.is_contiguous(memory_format=torch.channels_last_3d)
    assert volume.stride(0) == volume.numel()  # what oneDNN's wrapper recognises the layout by
    for back in (pixel_major.from_volume(volume), pixel_major.from_rows(pixel_major.rows(laid))):
        assert torch.equal(back, x) and back.stride() == laid.stride() and back.data_ptr() == laid.data_ptr()


@settings(deadline=None, max_examples=60)
@given(
    groups=st.integers(1, 4),
    inside=st.integers(1, 3),
    out=st.integers(1, 3),
    images=st.integers(1, 3),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    stride=st.integers(1, 2),
    kernel=st.sampled_from([1, 3]),
    memory_format=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_every_convolution_is_torchs(
    groups: int, inside: int, out: int, images: int, height: int, width: int, stride: int, kernel: int,
    memory_format: torch.memory_format,
) -> None:  # fmt: skip
    groups = 1 if kernel == 1 else groups
    conv = Convolution(groups * inside, groups * out, kernel, stride, kernel // 2, groups=groups, bias=False).double()
    conv.weight.data.copy_(draw(*conv.weight.shape, seed=2))
    conv.to(memory_format=memory_format)  # type: ignore[call-overload]
    x = draw(images, groups * inside, height, width, seed=3).requires_grad_()
    ours = pixel_major.convolve_by(conv, pixel_major.lay_out(x))
    reference = F.conv2d(x, conv.weight, None, stride, kernel // 2, groups=groups)
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)
    along = draw(*reference.shape, seed=4)
    inputs = (x, conv.weight)
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs, along), torch.autograd.grad(reference, inputs, along), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    if images > 1:
        assert pixel_major.is_pixel_major(ours)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_grouped_kernel_is_not_taken_for_another_format(dtype: torch.dtype) -> None:
    # weight[..., None] of a channels-last weight gave errors as large as the result
    weight = draw(8, 2, 3, 3, seed=5).to(dtype).contiguous(memory_format=torch.channels_last)
    x = pixel_major.lay_out(draw(16, 8, 8, 8, seed=6).to(dtype))
    ours = pixel_major.convolve(x, pixel_major.volume_kernel(weight), None, 1, groups=4)
    reference = F.conv2d(x.double(), weight.double(), None, 1, 1, groups=4)
    assert (ours.double() - reference).abs().max() <= 0.02 * reference.abs().max()


def test_a_convolution_takes_maps_as_they_lie() -> None:
    conv = Convolution(6, 6, 3, padding=1, groups=3, bias=False).double()
    x = draw(4, 6, 5, 5, seed=7)
    laid = conv(pixel_major.lay_out(x))
    assert pixel_major.is_pixel_major(laid) and not pixel_major.is_pixel_major(conv(x))
    torch.testing.assert_close(laid, conv(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_torchs(training: bool) -> None:
    ours, theirs = BatchNorm(5).double().train(training), nn.BatchNorm2d(5).double().train(training)
    for bn in (ours, theirs):
        for name, value in bn.state_dict().items():
            if value.is_floating_point():
                value.copy_(draw(5, seed=len(name)).abs() + 0.1)
    x = draw(4, 5, 3, 2, seed=8).requires_grad_()
    along = draw(4, 5, 3, 2, seed=9)
    results = []
    for bn, given_ in ((ours, pixel_major.lay_out(x)), (theirs, x)):
        y = bn(given_)
        results.append((y.detach(), *torch.autograd.grad(y, (x, bn.weight, bn.bias), along)))
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10)
    assert pixel_major.is_pixel_major(ours(pixel_major.lay_out(x)))
    theirs(x)
    for name, value in theirs.state_dict().items():  # the running statistics too
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-10, atol=1e-10)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    with pytest.raises(ValueError, match="4 dimensions"):
        ours(draw(4, 5, 3, seed=1))


@pytest.mark.parametrize(("dtype", "width"), [(torch.bfloat16, 4), (torch.bfloat16, 12), (torch.float64, 4)])
def test_scales_apart_and_together(dtype: torch.dtype, width: int) -> None:
    x = pixel_major.lay_out(draw(3, 8 * width, 2, 5, seed=1).to(dtype))
    by_pixel, by_image = scales.split_by_pixel(x), scales.split_by_image(x)
    for s, expected in enumerate(x.chunk(8, dim=1)):
        assert torch.equal(pixel_major.from_rows(by_pixel[s]), expected)
        assert torch.equal(by_image[s], expected.permute(0, 2, 3, 1).flatten(1))
    for back in (scales.join_by_pixel(by_pixel), scales.join_by_image(by_image, 2, 5)):
        assert torch.equal(back, x) and pixel_major.is_pixel_major(back)
    if dtype == torch.float64:
        x = x.requires_grad_()
        weighted = [(s + 1) * scale for s, scale in enumerate(scales.split_apart(x))]
        along = draw(*x.shape, seed=2)
        (gradient,) = torch.autograd.grad(scales.join_together(weighted), x, along)
        factors = torch.arange(1.0, 9.0, dtype=dtype).repeat_interleave(width)[:, None, None]
        torch.testing.assert_close(gradient, along * factors)


@pytest.mark.parametrize("size", [(8, 8), (5, 3)])
def test_a_network_trains_as_it_does_channels_last(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny.built(MIXED).double().train()
    images = torch.rand(6, 1, *size, dtype=torch.float64, generator=tiny.generator())
    found = []
    for pixels_first in (False, True):
        model = copy.deepcopy(network)
        monkeypatch.setattr(pixel_major, "is_faster", lambda x, answer=pixels_first: answer)
        seen: list[bool] = []
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.register_forward_pre_hook(
                    lambda _, maps, seen=seen: seen.append(pixel_major.is_pixel_major(maps[0]))
                )
        logits = model(images)
        F.cross_entropy(logits, tiny.labels(6)).backward()
        assert seen and all(value == pixels_first for value in seen)  # nothing falls back on the way
        gradients = [parameter.grad for parameter in model.parameters()]
        found.append([logits.detach(), *gradients, *model.buffers()])
    for ours, reference in zip(*found, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-8, atol=1e-10)


def test_it_is_taken_in_bf16_on_a_cpu_alone() -> None:
    x = torch.rand(2, 1, 8, 8)
    assert not pixel_major.is_faster(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pixel_major.is_faster(x) and not pixel_major.is_faster(x.to("meta"))
    with torch.autocast("cpu", dtype=torch.float16):
        assert not pixel_major.is_faster(x)
