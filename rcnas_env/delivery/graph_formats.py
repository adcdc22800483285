"""Graphs of a network that run without this package: ONNX and torch.export, each held against the network itself.

Both take float32 images (N, channels, height, width) in [0, 1] under the name "images", for any N of at least 1, and
give "logits" (N, classes). Height and width are fixed.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rcnas_env.networks.convolution import Convolution
from rcnas_env.validation import require_choice

TOLERANCE = 1e-4
"""Largest difference of a logit between a graph and its network; observed ones are below 1e-5."""


Run = Callable[[Tensor], Tensor]
"""Images → logits, by a graph that was written."""


class MismatchError(RuntimeError):
    """What was written does not compute what the network does."""


@dataclass(frozen=True)
class GraphFormat:
    """A way to write a network down with its graph.

    file: name of the file in a student's folder.
    needs: packages beside torch; setup.cfg's extra `export` has them.
    write: (network in eval mode of plain layers, two images of its shape, file) → images → logits (N, classes), by
        what was written.
    """

    file: str
    needs: tuple[str, ...]
    write: Callable[[nn.Module, Tensor, Path], Run]


def write_onnx(network: nn.Module, images: Tensor, path: Path) -> Run:
    """Write `network` as one ONNX file, weights inside (below 2 GiB), with the batch as its one free dimension."""
    with _known_warnings():
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None
    program.save(str(path), external_data=False)
    return functools.partial(run_onnx, path)


def run_onnx(path: Path, images: Tensor) -> Tensor:
    """The ONNX file's logits of `images`, by onnxruntime on the CPU."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.contiguous().numpy()})[0])


def write_torchexport(network: nn.Module, images: Tensor, path: Path) -> Run:
    """Write `network` by `torch.export.save`; what is run is the program that was saved, not the file.

    Nothing here opens the file again: `torch.export.load` reads the example input in it by the unpickler, first the
    one restricted to tensors, then, if that fails, the unrestricted one.
    """
    with _known_warnings():
        program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program, path)

    def run(images: Tensor) -> Tensor:
        """Logits (N, classes) of `images` by the saved program."""
        with _known_warnings(), torch.no_grad():
            logits: Tensor = program.module()(images)
        return logits

    return run


GRAPH_FORMATS = {
    "onnx": GraphFormat("model.onnx", ("onnx", "onnxscript", "onnxruntime"), write_onnx),
    "torchexport": GraphFormat("model.pt2", (), write_torchexport),
}
FORMATS = ("safetensors", *GRAPH_FORMATS)
"""What a student may be delivered as; safetensors always is."""


def require_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """The graph formats among `formats`, each once, whose packages are there.

    Raises:
        ValueError: a format is unknown.
        ModuleNotFoundError: a package that one needs is not installed.
    """
    chosen = [require_choice("format", each, FORMATS) for each in formats]
    graphs = tuple(each for each in GRAPH_FORMATS if each in chosen)
    for each in graphs:
        missing = [name for name in GRAPH_FORMATS[each].needs if importlib.util.find_spec(name) is None]
        if missing:
            raise ModuleNotFoundError(
                f"format {each!r} needs {', '.join(missing)}: install the extra 'export' of setup.cfg"
            )
    return graphs


def plain_twin(network: nn.Module) -> nn.Module:
    """A copy of `network` on the CPU, in eval mode and NCHW memory, with nn.Conv2d in place of `Convolution`.

    Our convolutions choose their way by the size of the map, for a CPU; a graph should hold what they are.
    """
    twin = copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for parent in list(twin.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Convolution):
                setattr(parent, name, _plain_convolution(child))
    plain: nn.Module = twin.eval().requires_grad_(False)
    return plain


def require_equal(name: str, expected: Tensor, found: Tensor, tolerance: float) -> float:
    """The largest difference of `found` from `expected`, logits (N, classes).

    Raises:
        MismatchError: it is above `tolerance`, not finite, or another class comes first for an image.
    """
    if found.shape != expected.shape:
        raise MismatchError(f"{name} gives logits {tuple(found.shape)}, the network {tuple(expected.shape)}")
    difference = float((found - expected).abs().max())
    if not difference <= tolerance:
        raise MismatchError(f"{name}'s logits differ from the network's by {difference:.2g}, more than {tolerance:g}")
    changed = int((found.argmax(1) != expected.argmax(1)).sum())
    if changed:
        raise MismatchError(f"{name} puts {changed} of {len(expected)} images into another class than the network")
    return difference


def _plain_convolution(conv: Convolution) -> nn.Conv2d:
    sizes = (conv.kernel_size, conv.stride, conv.padding)
    with torch.device("meta"):  # where nothing is drawn
        plain = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            *sizes,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=conv.bias is not None,
        )
    plain.weight, plain.bias = conv.weight, conv.bias
    return plain


@contextmanager
def _known_warnings() -> Iterator[None]:
    """Let pass what torch warns itself about: a deprecated look at its own trees, and weights read from bytes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
        warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)
        yield
