"""Downloads, from file: addresses: whole or not at all, checked, and only when asked for."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

import rcnas_env.data.dataset as dataset_module
from rcnas_env.data import DataCorruptError, DatasetEntry, ImageSet, PublishedFile, dataset_entry, register_dataset
from rcnas_env.data.__main__ import main
from rcnas_env.data.download import download_dataset, download_file
from rcnas_env.data.storage import data_folder, file_md5
from rcnas_env.registry import Registry, UnknownNameError

CONTENT = bytes(range(256)) * 9_000  # more than two chunks


@pytest.fixture
def published(tmp_path: Path) -> PublishedFile:
    source = tmp_path / "server" / "images.bin"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    return PublishedFile("below/images.bin", source.as_uri(), hashlib.md5(CONTENT).hexdigest())


@pytest.fixture
def dataset(published: PublishedFile, monkeypatch: pytest.MonkeyPatch) -> str:
    def load() -> tuple[ImageSet, ImageSet]:
        raise AssertionError("loaded")

    digits = dataset_entry("digits")
    monkeypatch.setattr(dataset_module, "_DATASETS", Registry("dataset"))
    register_dataset(digits)
    register_dataset(DatasetEntry("remote", (1, 4, 4), 2, 0.1, 30, load, files=(published,)))
    return "remote"


def test_a_file_comes_whole(published: PublishedFile, tmp_path: Path) -> None:
    target = tmp_path / "data" / published.path
    download_file(published, target)
    assert target.read_bytes() == CONTENT
    assert file_md5(target) == published.md5
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("kept", [None, b"what was there before"])
def test_what_fails_its_checksum_is_not_kept(published: PublishedFile, tmp_path: Path, kept: bytes | None) -> None:
    target = tmp_path / "images.bin"
    if kept is not None:
        target.write_bytes(kept)
    (tmp_path / "server" / "images.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(DataCorruptError, match=f"must have md5 {published.md5}, what came has "):
        download_file(published, target)
    assert (target.read_bytes() if target.exists() else None) == kept
    assert [path for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_an_unreachable_server_leaves_nothing(published: PublishedFile, tmp_path: Path) -> None:
    (tmp_path / "server" / "images.bin").unlink()
    with pytest.raises(OSError, match=r"images\.bin"):
        download_file(published, tmp_path / "data" / "images.bin")
    assert list((tmp_path / "data").iterdir()) == []


def test_what_is_there_is_not_downloaded_again(dataset: str, published: PublishedFile, tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "data"
    assert download_dataset(dataset, folder, said.append) == folder
    (tmp_path / "server" / "images.bin").unlink()
    download_dataset(dataset, folder, said.append)
    path = folder / published.path
    assert said == [f"{path}: from {published.url}", f"{path}: there already"]


def test_a_broken_file_is_downloaded_again(dataset: str, published: PublishedFile, tmp_path: Path) -> None:
    path = tmp_path / published.path
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1])
    download_dataset(dataset, tmp_path, lambda line: None)
    assert path.read_bytes() == CONTENT


def test_the_command_downloads_into_the_data_folder(
    dataset: str,
    published: PublishedFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RCNAS_DATA", str(tmp_path / "by variable"))
    assert main([dataset]) == 0
    assert main([dataset, "--folder", str(tmp_path / "by option")]) == 0
    for folder in ("by variable", "by option"):
        assert (tmp_path / folder / published.path).read_bytes() == CONTENT
    assert published.url in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"), [("digits", "there is nothing to download"), ("remot", "Did you mean 'remote'?")]
)
def test_the_command_says_what_is_wrong(
    dataset: str, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name]) == 1
    assert message in capsys.readouterr().err
    with pytest.raises(ValueError if name == "digits" else UnknownNameError):
        download_dataset(name)


def test_the_command_exists() -> None:
    command = [sys.executable, "-m", "rcnas_env.data", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "cifar10, cifar100, fashion-mnist, fashion-mnist-14, tiny-imagenet" in " ".join(shown.split())
    assert "digits" not in shown


def test_the_data_folder_is_the_users_cache_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RCNAS_DATA", str(tmp_path / "named"))
    assert data_folder() == tmp_path / "named"
    monkeypatch.delenv("RCNAS_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_folder() == tmp_path / "rcnas" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder() == tmp_path / ".cache" / "rcnas" / "data"
