"""The examples and the code of docs/tabular.md, run as they stand."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import numpy as np
import pytest

from rcnas_env.architecture import NetworkSpec
from rcnas_env.tabular.landscape import TaskLandscape
from rcnas_env.tabular.table import load_table
from rcnas_env.task import Task

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "tabular.md").read_text(encoding="utf-8")
TASK = Task("digits", "pgd-20", "WRN-16-1", 800_000)
"""The one that all examples search on."""

MOST_LINES = 40
NUMBER = r"(-?\d+\.\d+)"


def run(name: str, *arguments: str, store: Path) -> str:
    """What the example prints; elsewhere than in the checkout, as its users run it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RCNAS_STORE": str(store)}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=store,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_every_example_is_run_here() -> None:
    ours = Path(__file__).read_text(encoding="utf-8")
    names = [path.stem for path in EXAMPLES.glob("*.py")]
    assert len(names) >= 3 and [name for name in names if f'run("{name}"' not in ours] == []
    for path in EXAMPLES.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert f"python examples/{path.name}" in text.split('"""')[1], f"{path.name} does not say how it is run"


def test_an_algorithm_of_one_s_own_finds_a_good_student(tmp_path: Path) -> None:
    printed = run("own_algorithm", "--generations", "12", "--seed", "1", store=tmp_path).splitlines()
    one = re.fullmatch(f"reward of the best student, one training: {NUMBER}", printed[0])
    expected = re.fullmatch(f"in expectation: {NUMBER}; of the best there is: {NUMBER}", printed[1])
    assert one and expected
    landscape = TaskLandscape(load_table("digits"), TASK)
    reward, best = map(float, expected.groups())
    assert best == pytest.approx(landscape.best, abs=1e-4)
    student = NetworkSpec.from_json(printed[2])
    assert reward == pytest.approx(landscape.expected_reward(student), abs=1e-4)
    within = np.sort(landscape.rewards[landscape.rewards > -1])
    assert reward > within[int(0.9 * len(within))]  # one of the best tenth of those within the budget


def test_an_algorithm_of_one_s_own_takes_40_lines() -> None:
    text = (EXAMPLES / "own_algorithm.py").read_text(encoding="utf-8")
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENCODING, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped and not (token.type == tokenize.STRING and token.line.startswith('"""')):
            lines.update(range(token.start[0], token.end[0] + 1))
    assert 20 < len(lines) <= MOST_LINES


def test_ppo_runs_on_the_table(tmp_path: Path) -> None:
    printed = run("sb3_ppo", "--steps", "96", store=tmp_path)
    found = re.fullmatch(
        rf"96 students; mean reward of the first tenth {NUMBER}, of the last {NUMBER}\n"
        rf"best reward {NUMBER}: robust accuracy {NUMBER}, (\d+) MACs\n",
        printed,
    )
    assert found
    first, last, best, accuracy, macs = map(float, found.groups())
    assert min(first, last) >= -1 and max(first, last) <= best and best > 0
    assert 0 < accuracy < 1 and macs <= TASK.budget
    assert list(tmp_path.iterdir()) == []  # nothing was trained or stored


def test_an_optuna_study_runs_on_the_table(tmp_path: Path) -> None:
    lines = run("optuna_study", "--trials", "15", store=tmp_path).splitlines()
    assert re.fullmatch(f"best reward of 15 students: {NUMBER}", lines[0])
    measured = re.fullmatch(rf"robust accuracy {NUMBER}, (\d+) MACs", lines[1])
    assert measured and int(measured[2]) <= TASK.budget
    table = load_table("digits")
    row = table.space.row(NetworkSpec.from_json(lines[2]))
    accuracies = table.accuracies_of_all(0)[[row, table.space.row(TASK.teacher)], 1 + table.attacks.index("pgd-20")]
    assert accuracies[0] == float(measured[1])
    compression = 1 - table.params[row] / table.params[table.space.row(TASK.teacher)]
    reward = compression * (2 - compression) * accuracies[0] / accuracies[1]
    assert float(lines[0].split()[-1]) == pytest.approx(reward, abs=1e-4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_same_study_runs_on_real_training(tmp_path: Path) -> None:
    printed = run("optuna_study", "--live", "--trials", "2", store=tmp_path)
    assert printed.startswith("best reward of 2 students: ")
    assert list(tmp_path.rglob("*.safetensors"))  # of the teacher at least


def test_the_code_of_the_page_on_the_twin_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    namespace: dict[str, object] = {"__name__": "tabular"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/tabular.md, block {number}", "exec"), namespace)
    printed = capsys.readouterr().out
    assert '"held_out"' in printed
    regret = re.search(f"regret of the smallest student: {NUMBER}", printed)
    assert regret and float(regret[1]) > 0


def test_the_page_names_what_there_is() -> None:
    for module in re.findall(r"`(rcnas_env(?:/\w+)+\.(?:py|json))`", PAGE):
        assert (ROOT / module).is_file(), module
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
