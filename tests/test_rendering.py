"""What is drawn: text that names stages and figures, pictures that follow the student, a window that closes."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

import rcnas_env  # noqa: F401  (registers the ids)
from rcnas_env.architecture import NetworkSpec, StageSpec
from rcnas_env.rendering import draw_stages, stage_label
from rcnas_env.task import Task

TASK = Task("digits", "pgd-20", "WRN-22-2", 2e6)  # 3 blocks of 32, 64, 128 planes
SMALL = {"keep": np.array([[0.5, 0.3], [0.25, 1.0], [0.5, 0.5]]), "switch": np.array([[1, 0], [0, 1], [1, 0]])}
LARGE = {"keep": np.ones((3, 2)), "switch": np.array([[0, 0], [1, 1], [1, 0]])}


def make(render_mode: str | None, **options: Any) -> gym.Env[Any, Any]:
    fixed = {"engine": "analytic", "store": None, "recipe": {"n_eval": 12}, "tasks": TASK, "penalty": "hard"}
    env = gym.make("RCNAS-v0", render_mode=render_mode, **{**fixed, **options})
    env.reset(seed=0)
    return env


def test_text_holds_stages_and_figures() -> None:
    env = make("ansi")
    info = env.step(SMALL)[-1]
    lines: list[str] = env.render().splitlines()  # type: ignore[union-attr]
    assert lines[0] == "digits × pgd-20, budget 2,000,000 MACs"
    assert [re.split(" {2,}| (?=[0-9])", line.strip()) for line in lines[1:5]] == [
        ["stage", "teacher", "student"],
        ["1", "3×32", "1×16↓"],
        ["2", "3×64↓", "3×16r"],
        ["3", "3×128↓", "2×64↓"],
    ]
    for figure in (
        f"{info['params']:,} parameters",
        f"{info['macs']:,} MACs (within budget)",
        f"{info['robust_accuracy']:.1%} robust",
        f"reward {info['reward_terms']['reward']:+.3f}",
    ):
        assert figure in lines[5]


def test_text_says_where_nothing_was_trained() -> None:
    env = make("ansi")
    env.step(LARGE)
    text = env.render()
    assert isinstance(text, str)
    assert "not trained" in text
    assert "(over budget), reward -1.000" in text


def test_text_before_the_first_step() -> None:
    assert make("ansi").render() == "no step taken yet"


def test_pictures_follow_the_student() -> None:
    env = make("rgb_array")
    pictures = [env.render()]
    for action in (SMALL, LARGE, SMALL):
        env.step(action)
        pictures.append(env.render())
    for picture in pictures:
        assert isinstance(picture, np.ndarray)
        assert (picture.shape, picture.dtype) == ((320, 700, 3), np.uint8)
        assert picture.std() > 1  # not blank
    nothing, small, large, small_again = pictures
    assert not np.array_equal(nothing, small)
    assert not np.array_equal(small, large)
    np.testing.assert_array_equal(small, small_again)


def test_bars_are_planes_and_blocks_and_hatched_where_robust() -> None:
    student = NetworkSpec((StageSpec(2, 16), StageSpec(1, 24, True, True), StageSpec(3, 40)), input=(1, 8, 8))
    axes = Figure().subplots(1, 2)
    draw_stages(axes, TASK.teacher, {"student": student})
    for axis, field in zip(axes, ("planes", "depth"), strict=True):
        stages = [*TASK.teacher.stages, *student.stages]
        assert [bar.get_height() for bar in axis.patches] == [getattr(stage, field) for stage in stages]
        assert [bool(bar.get_hatch()) for bar in axis.patches] == [stage.robust for stage in stages]
        left = [bar.get_x() for bar in axis.patches]
        widest = max(bar.get_width() for bar in axis.patches)
        assert np.diff(sorted(left)).min() >= widest - 1e-9  # none hides another
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["teacher", "student"]


def test_a_window_is_drawn_at_every_step_and_closed() -> None:
    before = plt.get_fignums()
    env = make("human")
    env.step(SMALL)
    opened = [number for number in plt.get_fignums() if number not in before]
    assert len(opened) == 1
    first = np.asarray(plt.figure(opened[0]).canvas.buffer_rgba()).copy()  # type: ignore[attr-defined]
    env.step(LARGE)
    assert len(plt.get_fignums()) == len(before) + 1  # the same window
    plt.figure(opened[0]).canvas.draw()
    assert not np.array_equal(first, np.asarray(plt.figure(opened[0]).canvas.buffer_rgba()))  # type: ignore[attr-defined]
    env.close()
    assert plt.get_fignums() == before


def test_rendering_without_a_mode_says_so() -> None:
    env = make(None).unwrapped
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


@pytest.mark.parametrize(
    ("stage", "label"),
    [
        (StageSpec(3, 32), "3×32"),
        (StageSpec(1, 16, downsample=True), "1×16↓"),
        (StageSpec(2, 80, robust=True), "2×80r"),
        (StageSpec(12, 640, downsample=True, robust=True), "12×640r↓"),
    ],
)
def test_a_stage_s_label(stage: StageSpec, label: str) -> None:
    assert stage_label(stage) == label
