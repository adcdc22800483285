"""A delivered student: a folder that is written whole or not at all, and is checked before it is there.

model.safetensors   weights
student.json        the card (rcnas_env.delivery.card)
README.md           the card in words
model.onnx, model.pt2   graphs, if asked for (rcnas_env.delivery.graph_formats)
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from rcnas_env.cost import cost
from rcnas_env.delivery.card import StudentCard
from rcnas_env.delivery.graph_formats import GRAPH_FORMATS, TOLERANCE, Run, plain_twin, require_equal, require_formats
from rcnas_env.delivery.model_card import model_card
from rcnas_env.networks import build
from rcnas_env.strict_json import parse_json

CARD, WEIGHTS, README = "student.json", "model.safetensors", "README.md"


class DeliveryError(ValueError):
    """A folder that holds no student that this version can read; the message says why."""


def write_student(
    network: nn.Module,
    card: StudentCard,
    folder: str | os.PathLike[str],
    images: Tensor,
    formats: Sequence[str] = ("safetensors",),
) -> Path:
    """Write `network` as a delivered student, with a check that every file gives its logits; returns the folder.

    What is in the folder is what `load_student` reads: model.safetensors is always written. A student that is there
    already is replaced.

    Args:
        network: what `build(card.network)` makes, with trained weights; it stays as it is.
        card: `files` is filled in.
        folder: not there yet, empty, or a delivered student.
        images: that outputs are compared on, float32 (N, *card.network.input) in [0, 1], N ≥ 2: real ones, for
            logits of noise say little.
        formats: of `FORMATS`.

    Raises:
        ValueError: a format is unknown, the images do not fit, or the folder holds something else.
        ModuleNotFoundError: a package that a format needs is not installed.
        MismatchError: a file does not give the network's logits: to the bit by model.safetensors, within 1e-4 and
            with equal classes by a graph. Nothing is left behind then, and what was there stays.
    """
    graphs, target = require_formats(formats), Path(folder)
    if images.dtype != torch.float32:
        raise ValueError(f"images must be float32 in [0, 1], got {images.dtype}")
    if images.ndim != 4 or len(images) < 2 or tuple(images.shape[1:]) != card.network.input:
        shape = ", ".join(map(str, card.network.input))
        raise ValueError(f"images must be (N, {shape}) with N of at least 2, got {tuple(images.shape)}")
    if target.exists() and not (target.is_dir() and ((target / CARD).is_file() or not any(target.iterdir()))):
        raise ValueError(f"folder must be new, empty or a delivered student, got {str(folder)!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".writing-"))
    try:
        os.chmod(temporary, 0o755)  # mkdtemp's 0700 would keep it from all other users
        _fill(temporary, network, card, images.cpu(), graphs)
        _put_in_place(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def load_student(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> nn.Module:
    """A delivered student, ready for use: images (N, channels, height, width) in [0, 1] → logits (N, classes).

    >>> student = load_student("runs/search-…/student")                         # doctest: +SKIP
    >>> student(student.card.preprocessing(pixels)).argmax(1)                   # doctest: +SKIP

    Only model.safetensors and student.json are read; nothing in them is code. It is a check against accidents: who can
    change the weights can also change the checksum.

    Args:
        path: the folder, or its student.json.
        device: where the network goes.

    Returns:
        A `ResidualNetwork` or `CellNetwork` in eval mode, with its `spec` and `card` (a StudentCard) as attributes.

    Raises:
        DeliveryError: a file is missing or cannot be read, the weights do not fit their checksum or the network, or
            the format is another.
    """
    card, weights = read_card(path), _folder(path) / WEIGHTS
    try:
        content = weights.read_bytes()
    except OSError as error:
        raise DeliveryError(f"student {str(path)!r}: {WEIGHTS} cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != card.files.get(WEIGHTS):
        raise DeliveryError(f"student {str(path)!r}: {WEIGHTS} does not fit its checksum in {CARD}: it was altered")
    try:
        tensors = load_safetensors(content)
        held, wanted = sum(value.numel() for value in tensors.values()), cost(card.network).params
        if held < wanted:  # before memory is asked for
            raise RuntimeError(f"it has {held:,} numbers, the network {wanted:,} parameters")
        network = build(card.network)
        network.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise DeliveryError(f"student {str(path)!r}: {WEIGHTS} does not fit the network: {error}") from None
    network.__dict__["card"] = card  # no parameter, buffer or module
    return _laid_out(network.to(device))


def read_card(path: str | os.PathLike[str]) -> StudentCard:
    """The card of the delivered student in the folder `path`; its weights are not looked at.

    Raises:
        DeliveryError: student.json is missing, no JSON, or no card of this format.
    """
    file = _folder(path) / CARD
    try:
        value = parse_json(file.read_bytes())
    except OSError as error:
        raise DeliveryError(f"student {str(path)!r}: {CARD} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DeliveryError(f"student {str(path)!r}: {CARD} is no JSON: {error}") from None
    try:
        return StudentCard.from_dict(value)
    except ValueError as error:
        raise DeliveryError(f"student {str(path)!r}: {CARD}: {error}") from None


def _folder(path: str | os.PathLike[str]) -> Path:
    return Path(path).parent if Path(path).name == CARD else Path(path)


def _laid_out(network: nn.Module) -> nn.Module:
    """`network` in eval mode, in the memory format that networks are measured in."""
    return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


@torch.no_grad()
def _fill(folder: Path, network: nn.Module, card: StudentCard, images: Tensor, graphs: Sequence[str]) -> None:
    """Write all files of a student into `folder` and check them."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save_safetensors(tensors))
    twin = plain_twin(network) if graphs else network
    runs: dict[str, Run] = {}
    for each in graphs:
        runs[each] = GRAPH_FORMATS[each].write(twin, images[:2].contiguous(), folder / GRAPH_FORMATS[each].file)
    written = [WEIGHTS, *(GRAPH_FORMATS[each].file for each in graphs)]
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in written}
    final = replace(card, files=digests)
    (folder / CARD).write_text(final.to_json(), encoding="utf-8")
    (folder / README).write_text(model_card(final), encoding="utf-8")
    expected = _laid_out(copy.deepcopy(network).cpu())(images)
    require_equal(WEIGHTS, expected, load_student(folder)(images), tolerance=0.0)
    for each in graphs:
        require_equal(GRAPH_FORMATS[each].file, expected, runs[each](images), TOLERANCE)


def _put_in_place(temporary: Path, target: Path) -> None:
    """Rename `temporary` to `target`, out of whose way an older student goes first."""
    replaced = target.with_name(f".replaced-{target.name}")
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.replace(target, replaced)
    try:
        os.replace(temporary, target)
    except BaseException:
        if replaced.exists() and not target.exists():
            os.replace(replaced, target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
