"""README.md of a delivered student: its card in words."""

from __future__ import annotations

import json

from rcnas_env.architecture import NetworkSpec
from rcnas_env.cost import cost
from rcnas_env.delivery.card import StudentCard
from rcnas_env.rendering import stage_label

_LOADERS = {
    "model.safetensors": 'weights alone; `rcnas_env.load_student("FOLDER")` builds the network and checks them',
    "model.onnx": 'graph and weights; `onnxruntime.InferenceSession("model.onnx")`',
    "model.pt2": 'graph and weights; `torch.export.load("model.pt2").module()`; it may unpickle: load no stranger\'s',
}


def model_card(card: StudentCard) -> str:
    """The model card as Markdown."""
    return "\n".join([*_head(card), *_use(card), *_measured(card), *_origin(card)]) + "\n"


def _head(card: StudentCard) -> list[str]:
    own, spec = cost(card.network), card.network
    is_staged = isinstance(spec, NetworkSpec)
    stages = " ".join(map(stage_label, spec.stages)) if isinstance(spec, NetworkSpec) else f"{spec.layers} cells"
    reads = " (blocks × planes, r: robust blocks, ↓: down-sampling)" if is_staged else ""
    return [
        f"# A network for {card.dataset}, trained against attacks",
        "",
        f"{own.params:,} parameters, {own.macs:,} multiply-accumulates an image, {spec.classes} classes.",
        f"Stages: {stages}{reads}. `student.json` has the whole description.",
        "",
    ]


def _use(card: StudentCard) -> list[str]:
    channels, height, width = card.preprocessing.input
    scale = card.preprocessing.scale
    return [
        "## Use",
        "```python",
        "import rcnas_env",
        "",
        'student = rcnas_env.load_student("FOLDER")',
        "logits = student(student.card.preprocessing(pixels))  # pixels: uint8 "
        f"(N, {channels}, {height}, {width}), 0 to {scale}",
        "```",
        f"Input of every file: float32 (N, {channels}, {height}, {width}) in [0, 1], pixels / {scale}. No mean is",
        "taken off, nothing is resized. Output: logits (N, classes).",
        "",
        "| file | what it is | SHA-256 |",
        "|---|---|---|",
        *(f"| `{name}` | {_LOADERS.get(name, '')} | `{digest}` |" for name, digest in card.files.items()),
        "",
    ]


def _measured(card: StudentCard) -> list[str]:
    lines = [
        "## Measured",
        "| attack | L∞ radius | through | images | accuracy | standard error |",
        "|---|--:|---|--:|--:|--:|",
    ]
    for each in card.measurements:
        radius = f"{each.epsilon:.4g}" if each.perturbs else "–"
        through = {"student": "white box", "teacher": "its teacher"}[each.attack_source] if each.perturbs else "–"
        error = f"{100 * each.standard_error:.1f} %"
        images = f"{each.images:,} of {each.split}"
        lines.append(f"| {each.attack} | {radius} | {through} | {images} | {100 * each.accuracy:.1f} % | {error} |")
    return [
        *lines,
        "",
        "An attack's figure is an upper bound of what remains under a stronger one, at this radius and no other.",
        "",
    ]


def _origin(card: StudentCard) -> list[str]:
    made = {"training": card.training, "search": card.search, "versions": card.versions, "commit": card.commit}
    return ["## Origin", "```json", json.dumps(made, indent=1), "```"]
