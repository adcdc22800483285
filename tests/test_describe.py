"""The command line of `experiments.describe`, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.describe import describe, parse_input
from rcnas_env.architecture import NetworkSpec, StageSpec, named_network
from rcnas_env.cost import cost

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.describe", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)


def test_json_lists_the_networks_in_order(tmp_path: Path) -> None:
    student = NetworkSpec((StageSpec(1, 24, robust=True),), input=(1, 8, 8), classes=3)
    file = tmp_path / "student.json"
    file.write_text(student.to_json(), encoding="utf-8")
    result = run("WRN-28-10", str(file), "RobustResNet-A1", "--json", "--input", "3x64x64", "--classes", "200")
    assert result.returncode == 0, result.stderr
    entries = json.loads(result.stdout)
    assert [list(entry) for entry in entries] == [["name", "spec", "params", "macs"]] * 3
    assert [entry["name"] for entry in entries] == ["WRN-28-10", str(file), "RobustResNet-A1"]
    at_64 = [named_network(name, (3, 64, 64), 200) for name in ("WRN-28-10", "RobustResNet-A1")]
    expected = [at_64[0], student, at_64[1]]
    assert [NetworkSpec.from_dict(entry["spec"]) for entry in entries] == expected
    assert [(e["params"], e["macs"]) for e in entries] == [(cost(s).params, cost(s).macs) for s in expected]


def test_the_table_shows_stages_and_verified_figures() -> None:
    result = run("WRN-28-10", "RobustResNet-A4")
    assert result.returncode == 0, result.stderr
    for text in ("36,479,194", "36.5 M", "5,243,328,768", "5.24 G", "4 x 320 basic, stride 2", "27 x 160 robust"):
        assert text in result.stdout
    assert "147,262,458" in result.stdout
    assert "39,272,890,880" in result.stdout


def test_the_table_shows_networks_of_cells() -> None:
    result = run("AdvRush-7@96")
    assert result.returncode == 0, result.stderr
    assert "23 cells, 96 channels" in result.stdout and "32,575,018" in result.stdout


def test_square_brackets_in_a_file_name_are_printed_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "[red]n.json").write_text(named_network("WRN-10-1").to_json(), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-m", "experiments.describe", "[red]n.json"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False)
    assert "[red]n.json" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["WRN28-10"], "Did you mean 'WRN-28-10'?"),
        (["WRN-28-10", "nowhere.json"], "network file 'nowhere.json' cannot be read: No such file"),
        (["tests/test_describe.py"], "network file 'tests/test_describe.py': network must be JSON"),
        (["WRN-28-10", "--input", "3,32,32"], "--input must be CxHxW"),
        (["WRN-28-10", "--input", "3x0x32"], "--input[1] (height) must be an integer from 1 to 4096, got 0"),
        (["WRN-28-10", "--classes", "1"], "classes must be an integer of at least 2, got 1"),
        (["A" * 5_000], "File name too long"),
        ([], "names must be one network or more"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("text", ["", "3x32", "3x32x32x1", "3x32x-1", "3X32X32", " 3x32x32", "3.0x32x32", "٣x32x32"])
def test_parse_input_takes_three_integers_only(text: str) -> None:
    with pytest.raises(ValueError, match="--input must be CxHxW"):
        parse_input(text)


def test_parse_input_reads_channels_height_width() -> None:
    assert parse_input("1x28x14") == (1, 28, 14)


def test_describe_raises_for_a_caller() -> None:
    with pytest.raises(ValueError, match="unknown network"):
        describe(["nothing"], (3, 32, 32), 10)


def test_describing_imports_no_torch() -> None:
    code = "import sys; from experiments.describe import main; main(['WRN-16-2']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0
