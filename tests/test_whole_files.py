"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rcnas_env.whole_files import TEMPORARY_PREFIX, write_json, write_text, writing


def test_a_file_takes_its_place_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with writing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent and temporary.name.startswith(TEMPORARY_PREFIX)
    assert list(path.parent.iterdir()) == [path] and path.read_text() == "whole"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_old_file_and_no_other(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(error), writing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "old"


def test_a_file_has_the_rights_that_any_new_one_would(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "ü")
    (tmp_path / "plain").touch()
    assert os.stat(tmp_path / "ours").st_mode == os.stat(tmp_path / "plain").st_mode
    assert (tmp_path / "ours").read_bytes() == "ü".encode()


def test_json_is_one_line_of_finite_numbers(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"a": [1, 2.5]})
    assert (tmp_path / "file").read_bytes() == b'{"a": [1, 2.5]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "other", float("inf"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
