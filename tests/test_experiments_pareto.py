"""Tables and figure of accuracy against cost, on what real searches of the analytic engine tried."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from agents.pareto import pareto_front
from agents.registry import make_agent
from agents.trial import Trial, select
from experiments.figures import COLOURS
from experiments.pareto import (
    COSTS,
    FrontPoint,
    best_points,
    front_figure,
    front_markdown,
    front_points,
    front_table,
    save_front_figure,
)
from rcnas_env.cost import cost
from rcnas_env.evaluation.analytic import TEACHER_ACCURACY
from rcnas_env.rendering import stage_label
from tests.landscape import environments, task

TASK = task(budget_share=0.3)
AGENTS = {"random-search": "random search", "local-search": "local search", "scaling-rule": "RobustResNet rule"}


@functools.cache
def trials(agent: str, seed: int = 0) -> tuple[Trial, ...]:
    return tuple(make_agent(agent, TASK, seed).search(environments(4, TASK), 16))


@functools.cache
def points() -> tuple[FrontPoint, ...]:
    """Of three agents' searches."""
    found = {name: front_points(name, trials(key), TASK, TEACHER_ACCURACY, 1 / 10) for key, name in AGENTS.items()}
    return tuple(point for each in found.values() for point in each)


def point(agent: str = "a", params: int = 100, macs: int = 1_000, accuracy: float = 0.5, **fields: Any) -> FrontPoint:
    """A point of the task's teacher; a reward of 1 at both weights."""
    return replace(FrontPoint(agent, TASK.teacher, params, macs, accuracy, 1.0, 1.0), **fields)


# -- points ----------------------------------------------------------------------------------------------


def test_points_are_the_trials_with_the_rewards_at_both_ends() -> None:
    tried = trials("random-search")
    found = front_points("mine", tried, TASK, TEACHER_ACCURACY, 1 / 10)
    assert len(found) == len({trial.student for trial in tried}) > 10
    by_student = {each.student: each for each in found}
    teacher = cost(TASK.teacher).params
    for trial in tried:
        mine = by_student[trial.student]
        assert (mine.agent, mine.params, mine.macs) == ("mine", trial.params, trial.macs)
        assert mine.robust_accuracy == trial.robust_accuracy
        assert mine.reward == trial.reward, "within the budget ε plays no part, and the environment had λ = 1"
        assert mine.reward_without_compression == mine.robust_accuracy / TEACHER_ACCURACY
        share = trial.params / teacher
        assert mine.reward == pytest.approx(mine.reward_without_compression * (1 - share**2))


def test_over_budget_both_rewards_are_minus_one_and_the_untrained_are_left_out() -> None:
    tight = task(budget_share=1e-4)
    first, second = trials("random-search")[:2]
    (found,) = front_points("a", [first, replace(second, robust_accuracy=None)], tight, TEACHER_ACCURACY)
    assert found.student == first.student
    assert (found.reward, found.reward_without_compression) == (-1.0, -1.0)


def test_a_student_that_is_tried_again_is_one_point() -> None:
    tried = trials("random-search")[:3]
    assert front_points("a", tried + tried, TASK, 0.4) == front_points("a", tried, TASK, 0.4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"params": 0}, "params must be an integer of at least 1, got 0"),
        ({"macs": 1.5}, "macs must be an integer of at least 1, got 1.5"),
        (
            {"robust_accuracy": float("nan")},
            "robust_accuracy must be a finite number, at least 0 and at most 1, got nan",
        ),
        ({"robust_accuracy": 50.0}, "robust_accuracy must be a finite number, at least 0 and at most 1, got 50.0"),
        ({"reward": None}, "reward must be a finite number, got None"),
        ({"reward_without_compression": float("inf")}, "reward_without_compression must be a finite number, got inf"),
    ],
)
def test_bad_figures_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        point(**fields)


def test_an_agents_best_is_the_most_accurate_within_the_budget() -> None:
    best = best_points(points())
    assert list(best) == list(AGENTS.values())
    for key, name in AGENTS.items():
        assert best[name].student == select(trials(key), "accuracy").student
    over = point(accuracy=0.9, reward_without_compression=-1.0)
    fits = [point(macs=7), point(macs=6, params=3), point(macs=6, params=2), point(accuracy=0.4, macs=1)]
    fits = [replace(each, reward_without_compression=each.robust_accuracy) for each in fits]
    assert best_points([over, *fits]) == {"a": fits[2]}


# -- the table -------------------------------------------------------------------------------------------


def test_the_table_marks_both_fronts_of_all_agents_together() -> None:
    rows = front_table(points())
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert [row["macs"] for row in rows] == sorted(each.macs for each in points())
    own = [{key: value for key, value in row.items() if not key.startswith("on_")} for row in rows]
    plain = [{**asdict(each), "student": each.student.to_dict()} for each in points()]
    assert sorted(own, key=json.dumps) == sorted(plain, key=json.dumps)
    for field in COSTS:
        on = [bool(row[f"on_{field}_front"]) for row in rows]
        accuracies = [row["robust_accuracy"] for row in rows]
        assert on == pareto_front([row[field] for row in rows], accuracies).tolist()
        assert 0 < sum(on) < len(rows)
        front = sorted((row[field], row["robust_accuracy"]) for row, is_on in zip(rows, on, strict=True) if is_on)
        assert front[-1][1] == max(accuracies) and front[0][0] == min(row[field] for row in rows)


def test_the_two_fronts_are_told_apart() -> None:
    both, by_macs, by_params = point("a", 10, 10, 0.1), point("b", 30, 20, 0.2), point("c", 20, 30, 0.2)
    neither = point("d", 30, 30, 0.2)
    rows = {row["agent"]: row for row in front_table([neither, by_params, by_macs, both])}
    marks = {agent: (row["on_macs_front"], row["on_params_front"]) for agent, row in rows.items()}
    assert marks == {"a": (True, True), "b": (True, False), "c": (False, True), "d": (False, False)}
    lines = front_markdown([neither, by_params, by_macs, both]).splitlines()[2:]
    assert [line.split(" | ")[-1].rstrip(" |") for line in lines] == ["MACs and parameters", "MACs", "parameters", "–"]


def test_leaving_out_what_is_on_no_front_changes_no_mark() -> None:
    on = {row["macs"] for row in front_table(points()) if row["on_macs_front"] or row["on_params_front"]}
    kept = [each for each in points() if each.macs in on]
    assert 0 < len(kept) < len(points())
    assert front_table(kept) == [row for row in front_table(points()) if row["macs"] in on]


def test_markdown_shows_every_point_with_its_stages() -> None:
    lines = front_markdown(points()).splitlines()
    assert len(lines) == 2 + len(points()) and len({line.count("|") for line in lines}) == 1
    dearest = max(points(), key=lambda each: each.macs)
    stages = " ".join(map(stage_label, dearest.student.stages))  # type: ignore[union-attr]
    figures = f"| {dearest.params:,} | {dearest.macs:,} | {100 * dearest.robust_accuracy:.1f} | {dearest.reward:+.3f} |"
    assert lines[-1].startswith(f"| {dearest.agent} | {stages} {figures}")


@pytest.mark.parametrize("shown", [front_table, front_markdown, front_figure])
def test_no_points_are_refused(shown: Any) -> None:
    with pytest.raises(ValueError, match="points must be one or more, got none"):
        shown([])


# -- the figure ------------------------------------------------------------------------------------------


def test_each_panel_draws_all_points_their_front_and_every_agents_best() -> None:
    figure = front_figure(points())
    assert len(figure.axes) == 2
    for panel, field in zip(figure.axes, COSTS, strict=True):
        assert panel.get_xscale() == "log"
        rows = front_table(points())
        (line,) = panel.get_lines()
        front = sorted((row[field], 100 * row["robust_accuracy"]) for row in rows if row[f"on_{field}_front"])
        drawn = np.column_stack(line.get_data())
        np.testing.assert_allclose(drawn[:-1], front)
        assert drawn[-1].tolist() == [max(row[field] for row in rows), max(value for _, value in front)]
        assert line.get_drawstyle() == "steps-post"
        clouds = [np.asarray(each.get_offsets()) for each in panel.collections]
        tried, best = clouds[:-1:2], clouds[1::2]
        expected = sorted((getattr(each, field), 100 * each.robust_accuracy) for each in points())
        np.testing.assert_allclose(sorted(map(tuple, np.concatenate(tried))), expected)
        for cloud, chosen in zip(best, best_points(points()).values(), strict=True):
            np.testing.assert_allclose(cloud, [(getattr(chosen, field), 100 * chosen.robust_accuracy)])
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["front", *AGENTS.values(), "best of its agent"]


def test_the_picture_is_written_in_the_agents_colours(tmp_path: Path) -> None:
    path = tmp_path / "front.png"
    save_front_figure(points(), path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = imread(path)[..., :3]
    assert picture.shape == (600, 1200, 3)
    for half in (picture[:, :600], picture[:, 600:]):
        for colour in COLOURS[: len(AGENTS)]:  # as in the other figures: in order of appearance
            assert (np.abs(half - to_rgb(colour)).max(axis=-1) < 0.02).sum() > 50
        assert (np.abs(half - to_rgb(COLOURS[3])).max(axis=-1) < 0.02).sum() == 0, "nobody's colour"
    other = tmp_path / "other.png"
    moved = [replace(points()[0], robust_accuracy=0.99), *points()[1:]]
    save_front_figure(moved, other)
    assert not np.array_equal(picture, imread(other)[..., :3])


def test_no_two_of_thirty_agents_look_alike_and_more_are_refused() -> None:
    many = [point(f"agent {i}", macs=i + 1, accuracy=i / 40) for i in range(30)]
    panel = front_figure(many).axes[0]
    looks = {
        (tuple(np.asarray(each.get_facecolor())[0, :3]), each.get_paths()[0].vertices.tobytes())  # type: ignore[union-attr]
        for each in panel.collections[:-1:2]
    }
    assert len(looks) == 30
    with pytest.raises(ValueError, match="points must be of at most 30 agents, got 31"):
        front_figure([*many, point("one more")])
