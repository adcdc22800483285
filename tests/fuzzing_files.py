"""The surfaces that read files: specs, checkpoints, records, data sets."""

from __future__ import annotations

import functools
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from agents.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from agents.vpg import VPG, VPGConfig
from experiments.arena_agreement import agreement
from experiments.arena_runs import RunLog
from rcnas_env.architecture import read_network
from rcnas_env.data import DataUnavailableError
from rcnas_env.data.cifar import CIFAR10_FILES, load_cifar
from rcnas_env.data.fashion_mnist import CONTENT_SHA256, load_fashion_mnist
from rcnas_env.data.image_folder import image_folder_entry
from rcnas_env.data.tiny_imagenet import Counts, load_tiny_imagenet
from tests.fuzzing_strategies import (
    damaged,
    documents_as_bytes,
    files,
    hostile_files,
    odd_weights,
    one_damaged,
    payload_pickle,
    put,
)
from tests.fuzzing_surfaces import NETWORKS, Surface
from tests.landscape import encoder


def _spec(value: Any, folder: Path) -> None:
    put(folder / "spec.json", value)
    read_network(str(folder / "spec.json"))


@functools.cache
def _checkpoint_files() -> tuple[dict[str, Any], bytes]:
    """What a small agent is saved as."""
    agent = VPG(encoder(), VPGConfig(hidden=4), seed=1)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(agent, Path(folder) / "agent", {"steps": 3})
        settings, weights = (Path(folder) / "agent" / name for name in ("agent.json", "weights.safetensors"))
        return json.loads(settings.read_text(encoding="utf-8")), weights.read_bytes()


FOREIGN = {"agent": {"kind": "os.system", "__class__": "subprocess.Popen", "name": "x", "seed": 0}}


@functools.cache
def _settings_files() -> st.SearchStrategy[bytes | str]:
    settings, _ = _checkpoint_files()
    foreign = settings | {"agent": settings["agent"] | FOREIGN["agent"]}
    return files(documents_as_bytes([settings, settings, foreign]))


@st.composite
def _checkpoints(draw: st.DrawFn) -> tuple[Any, Any]:
    settings, weights = _checkpoint_files()
    if draw(st.booleans()):
        return draw(_settings_files()), weights
    return json.dumps(settings).encode(), draw(files(st.one_of(damaged(weights), odd_weights(weights))))


def _checkpoint(value: Any, folder: Path) -> None:
    settings, weights = value
    put(folder / "agent.json", settings)
    put(folder / "weights.safetensors", weights)
    load_checkpoint(folder)


RECORD = {
    "results": {
        "best": {},
        "agents": [{"agent": name, "mean_regret": [0.5, 0.4, float(len(name))]} for name in ("a", "bb", "ccc", "dddd")],
        "bars": [],
    }
}
RUN = {
    "label": "a", "task": "t", "seed": 0, "observed": [0.5], "expected": [0.4], "seconds": [1.0], "best": 1.0,
    "charge": {"evaluations": 0, "seconds": 0.0}, "delivered": NETWORKS[0],
}  # fmt: skip


def _agreement(value: Any, folder: Path) -> None:
    for name, content in zip("ab", value, strict=True):
        put(folder / name / "record.json", content)
    agreement(folder / "a", folder / "b").text()


def _run_log(value: Any, folder: Path) -> None:
    runs, settings = value
    put(folder / "runs.jsonl", runs if isinstance(runs, str) else runs + b"\n")
    put(folder / "settings.json", settings)
    log = RunLog(folder, {"engine": "tabular"})
    assert log.missing([("a", "t", 0)]) is not None


@functools.cache
def _png(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height), (1, 2, 3)).save(content, "PNG")
    return content.getvalue()


def _images(value: Any, folder: Path) -> None:
    size, contents = value
    for index, content in enumerate(contents):
        put(folder / "train" / f"class{index % 2}" / f"{index}.png", content)
    image_folder_entry(f"{folder}{size}").load()


def _fashion(value: Any, folder: Path) -> None:
    for name in CONTENT_SHA256:
        put(folder / f"{name}.gz", value)
    load_fashion_mnist([folder])


def _cifar(value: Any, folder: Path) -> None:
    unpacked, content = value
    names = (
        [f"{CIFAR10_FILES.folder}/{name}" for name in CIFAR10_FILES.members]
        if unpacked
        else [CIFAR10_FILES.archive.path]
    )
    for name in names:
        put(folder / name, content)
    load_cifar(CIFAR10_FILES, folder)


def _tiny_imagenet(value: Any, folder: Path) -> None:
    for name, content in zip(("wnids.txt", "val/val_annotations.txt", "train/n1/images/a.JPEG"), value, strict=True):
        put(folder / "tiny-imagenet-200" / name, content)
    load_tiny_imagenet(folder, counts=Counts(classes=1, training_per_class=1, validation=0))


def _any_file(*whole: bytes) -> st.SearchStrategy[bytes | str]:
    return files(one_damaged(whole) | st.sampled_from(hostile_files()))


DATA = (ValueError, DataUnavailableError)
FILES = (
    Surface("network file", files(documents_as_bytes(NETWORKS)), _spec),
    Surface("agent checkpoint", _checkpoints(), _checkpoint, (CheckpointError,)),
    Surface("arena record", st.tuples(*[files(documents_as_bytes([RECORD]))] * 2), _agreement),
    Surface(
        "arena run log",
        st.tuples(files(documents_as_bytes([RUN])), files(documents_as_bytes([{"engine": "tabular"}]))),
        _run_log,
    ),
    Surface(
        "image folder",
        st.tuples(
            st.sampled_from(("", "", "", "@8", "@7", "@x", "@" + "9" * 5_000)),
            st.lists(st.one_of(*[st.just(_png(9, 8))] * 8, _any_file(_png(9, 8))), min_size=3, max_size=6),
        ),
        _images,
        DATA,
    ),
    Surface("idx files", _any_file(gzip.compress(bytes(1_000))), _fashion, DATA),
    Surface("cifar files", st.tuples(st.booleans(), _any_file(payload_pickle())), _cifar, DATA),
    Surface(
        "tiny-imagenet files",
        st.tuples(*(_any_file(content) for content in (b"n1\n", b"\n", _png(64, 64)))),
        _tiny_imagenet,
        DATA,
    ),
)
"""The surfaces that read files of a user's."""
