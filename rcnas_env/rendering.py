"""Teacher and student side by side: as an image, in a window, or as text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rcnas_env.architecture import NetworkSpec, StageSpec
from rcnas_env.cost import cost
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.reward import RewardTerms
from rcnas_env.task import Task

RENDER_MODES = ("rgb_array", "human", "ansi")
TEACHER_COLOUR, STUDENT_COLOUR = "#9aa5b1", "#d1495b"


class Renderer:
    """Keeps the last step and draws it."""

    def __init__(self) -> None:
        self._last: tuple[Task, NetworkSpec, RewardTerms, Evaluation | None] | None = None
        self._window: Any = None
        self._interactive = False  # whether matplotlib was, before there was a window

    def update(self, task: Task, student: NetworkSpec, terms: RewardTerms, evaluation: Evaluation | None) -> None:
        """Take note of a step; `evaluation` is None where the student was not trained."""
        self._last = (task, student, terms, evaluation)

    def render(self, mode: str) -> Any:
        """Draw the last step: "ansi" → str, "rgb_array" → uint8 (height, width, 3), "human" → a window, None."""
        if mode == "ansi":
            return self.text()
        if mode == "rgb_array":
            return self.image()
        self.show()
        return None

    def text(self) -> str:
        """The last step as a table of stages and a line of figures."""
        if self._last is None:
            return "no step taken yet"
        task, student, terms, evaluation = self._last
        lines = [
            f"{task.dataset} × {task.attack}, budget {task.budget:,.0f} MACs",
            f"{'stage':<7}{'teacher':<18}student",
        ]
        for number, (theirs, ours) in enumerate(zip(task.teacher.stages, student.stages, strict=True), start=1):
            lines.append(f"{number:<7}{stage_label(theirs):<18}{stage_label(ours)}")
        lines.append(caption(task, student, terms, evaluation))
        return "\n".join(lines)

    def image(self) -> NDArray[np.uint8]:
        """The last step as bars: planes and blocks of each stage, teacher beside student."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 3.2), dpi=100, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        self._draw(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()

    def show(self) -> None:
        """Draw the last step in a window of matplotlib's interactive backend."""
        import matplotlib.pyplot as plt

        if self._window is None or not plt.fignum_exists(self._window.number):  # or its user has closed it
            self._interactive = plt.isinteractive() if self._window is None else self._interactive
            plt.ion()
            self._window = plt.figure(figsize=(7, 3.2), layout="constrained")
        self._window.clear()
        self._draw(self._window)
        self._window.canvas.draw_idle()
        self._window.canvas.flush_events()

    def close(self) -> None:
        """Close the window, if one is open."""
        if self._window is not None:
            import matplotlib.pyplot as plt

            plt.close(self._window)
            self._window = None
            if not self._interactive:
                plt.ioff()

    def _draw(self, figure: Any) -> None:
        if self._last is None:
            figure.text(0.5, 0.5, "no step taken yet", ha="center", va="center")
            return
        task, student, terms, evaluation = self._last
        figure.suptitle(caption(task, student, terms, evaluation), fontsize=9)
        draw_stages(figure.subplots(1, 2), task.teacher, {"student": student})


def draw_stages(axes: Any, teacher: NetworkSpec, students: dict[str, NetworkSpec]) -> None:
    """Planes (first axes) and blocks (second axes) of each stage as bars; hatched bars are robust stages."""
    networks = {"teacher": teacher, **students}
    palette = [TEACHER_COLOUR, STUDENT_COLOUR, "#edae49", "#00798c", "#30638e"]
    share = 0.8 / len(networks)
    for axis, field in zip(axes, ("planes", "depth"), strict=True):
        for position, (label, network) in enumerate(networks.items()):
            places = np.arange(len(network.stages)) + (position - (len(networks) - 1) / 2) * share
            bars = axis.bar(
                places,
                [getattr(stage, field) for stage in network.stages],
                share,
                label=label,
                color=palette[position % len(palette)],
            )
            for bar, stage in zip(bars, network.stages, strict=True):
                bar.set_hatch("//" if stage.robust else "")
        axis.set_xticks(range(len(teacher.stages)), [f"stage {i + 1}" for i in range(len(teacher.stages))])
        axis.set_ylabel("planes" if field == "planes" else "blocks")
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False)


def stage_label(stage: StageSpec) -> str:
    """A stage in a few characters: blocks×planes, r for robust blocks, ↓ for down-sampling."""
    return f"{stage.depth}×{stage.planes}{'r' if stage.robust else ''}{'↓' if stage.downsample else ''}"


def caption(task: Task, student: NetworkSpec, terms: RewardTerms, evaluation: Evaluation | None) -> str:
    """The figures of a step in one line."""
    params = cost(student).params
    accuracy = "not trained" if evaluation is None else f"{evaluation.robust_accuracy:.1%} robust"
    fits = "within" if terms.within_budget else "over"
    figures = f"{params:,} parameters, {terms.macs:,} MACs ({fits} budget), reward {terms.reward:+.3f}"
    return f"{task.attack}: {accuracy}, {figures}"
