"""Make the tabular twin of what `experiments.record_table` has put into the store so far.

    python -m experiments.fit_table --out rcnas_env/tabular/tables/digits

Fits a Gaussian process to the accuracies under each attack, predicts every network of the space, and writes the table
and its card. The card says how well networks that a model had not seen were predicted (10-fold cross-validation; the
length scales and the noise of its kernel are chosen once, on up to 500 of all networks).
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from experiments.record_table import TableRecording, recorded_jobs
from experiments.run_record import commit, hardware, versions
from experiments.stopping import stoppable
from experiments.table_model import FOLDS, Floats, GaussianProcess, features, held_out_predictions, worth
from rcnas_env.cost import cost
from rcnas_env.evaluation.entries import write_files
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import Store, open_store
from rcnas_env.presets import preset_entry
from rcnas_env.tabular.space import StudentSpace
from rcnas_env.tabular.table import ANGLE_UNIT, FORMAT, expected_shares
from rcnas_env.task import resolve_teacher


@dataclass(frozen=True)
class TableFit:
    """Settings of the fit."""

    recording: TableRecording
    """As `experiments.record_table` was called."""
    out: str
    """Path of the table's files, without ending; the last part is the table's name."""


@dataclass(frozen=True)
class Recorded:
    """Every training that is wholly recorded, one entry each.

    rows, seeds: (n,) which training.
    evaluations: for each, one Evaluation an attack.
    """

    rows: NDArray[np.int64]
    seeds: NDArray[np.int64]
    evaluations: list[list[Evaluation]]

    def correct(self) -> NDArray[np.int64]:
        """(n, 1 + A): images correct clean, and under each attack."""
        counts = [[own[0].clean_accuracy, *(each.robust_accuracy for each in own)] for own in self.evaluations]
        return np.rint(np.array(counts) * self.evaluations[0][0].images).astype(np.int64)

    def seconds(self) -> Floats:
        """(n, 1 + A): of the training, and of each attack."""
        return np.array([[own[0].training_seconds, *(each.attack_seconds for each in own)] for own in self.evaluations])


def gather(store: Store, jobs: Sequence[Sequence[Job]], space: StudentSpace, attacks: int) -> Recorded:
    """What the store has of the jobs; a training counts where every attack on it is there.

    Raises:
        ValueError: nothing is recorded, or nothing by more than one seed.
    """
    rows, seeds, evaluations = [], [], []
    for student in jobs:
        for first in range(0, len(student), attacks):
            own = [store.load_evaluation(job.key) for job in student[first : first + attacks]]
            if all(own):
                rows.append(space.row(student[first].network))
                seeds.append(student[first].seed)
                evaluations.append([each for each in own if each])
    if len(set(rows)) == len(rows):
        raise ValueError("store must hold students that were trained by more than one seed; record some first")
    return Recorded(np.array(rows), np.array(seeds), evaluations)


def seed_residuals(angles: Floats, rows: NDArray[np.int64]) -> Floats:
    """(R, k): deviations of single trainings from their network's mean, √(s / (s − 1)) times, s its seeds.

    The factor makes their variance that of a training about the true mean. angles (n, k), rows (n,).
    """
    found = []
    for row in np.unique(rows):
        mine = angles[rows == row]
        if len(mine) > 1:
            found.append((mine - mine.mean(axis=0)) * np.sqrt(len(mine) / (len(mine) - 1)))
    return np.concatenate(found)


def network_means(values: Floats, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], Floats, Floats]:
    """(distinct rows, trainings behind each, mean values) of values (n, k)."""
    distinct, inverse, counts = np.unique(rows, return_inverse=True, return_counts=True)
    sums = np.zeros((len(distinct), values.shape[1]))
    np.add.at(sums, inverse, values)
    return distinct, counts.astype(np.float64), sums / counts[:, None]


class Fit:
    """Models of everything that a table predicts.

    Args:
        space: whose networks are predicted.
        recorded: what was measured.
    """

    def __init__(self, space: StudentSpace, recorded: Recorded) -> None:
        costs = [cost(space.network(row)) for row in range(len(space))]
        self.params, self.macs = np.array([c.params for c in costs]), np.array([c.macs for c in costs])
        self.x = features(space.stages, self.params, self.macs)
        self.recorded = recorded
        self.images = recorded.evaluations[0][0].images
        self.angles = np.arcsin(np.sqrt(recorded.correct() / self.images))
        self.residuals = seed_residuals(self.angles, recorded.rows)

    def accuracies(self) -> tuple[Floats, Floats, Floats]:
        """(expected angles (N, k), measured accuracies (m, k), held-out accuracies (m, k)), m recorded networks."""
        rows, counts, means = network_means(self.angles, self.recorded.rows)
        measured = network_means(self.recorded.correct() / self.images, self.recorded.rows)[2]
        predicted, held_out = [], []
        for column in means.T:
            model = GaussianProcess(self.x[rows], column, counts)
            held_out.append(held_out_predictions(model, self.x[rows], column, counts))
            predicted.append(model.predict(self.x))
        angles = np.clip(np.stack(predicted, axis=1), 0, np.pi / 2)
        return angles, measured, expected_shares(np.stack(held_out, axis=1), self.residuals)

    def logarithms(self, values: Floats) -> Floats:
        """(N, k): predicted natural logarithms of positive values (n, k); those that are not are left out."""
        predicted = []
        for column in values.T:
            known = np.isfinite(column) & (column > 0)
            rows, counts, means = network_means(np.log(column[known])[:, None], self.recorded.rows[known])
            predicted.append(GaussianProcess(self.x[rows], means[:, 0], counts).predict(self.x))
        return np.stack(predicted, axis=1)

    def arrays(self) -> tuple[dict[str, NDArray[Any]], Floats]:
        """(the table's arrays, measured accuracies of the networks that `held_out` predicts)."""
        angles, measured, held_out = self.accuracies()
        own = self.recorded.evaluations
        lips = np.array([[each.lips for each in evaluations] for evaluations in own])
        loss = np.array([[each.adversarial_loss for each in evaluations] for evaluations in own])
        mean = lips.mean(axis=2)
        finite = (mean > 0).all(axis=1)
        arrays = {
            "params": self.params.astype(np.int32),
            "macs": self.macs.astype(np.int32),
            "angle": np.rint(angles / ANGLE_UNIT).astype(np.uint16),
            "lips_scale": self.logarithms(mean).astype(np.float16),
            "loss": self.logarithms(loss).astype(np.float16),
            "seconds": self.logarithms(self.recorded.seconds()).astype(np.float16),
            "lips_pattern": (lips[finite] / mean[finite][:, :, None]).mean(axis=0).astype(np.float32),
            "residuals": self.residuals.astype(np.float32),
            "recorded_row": self.recorded.rows.astype(np.int32),
            "recorded_seed": self.recorded.seeds.astype(np.int8),
            "recorded_correct": self.recorded.correct().astype(np.uint16),
            "held_out": held_out.astype(np.float32),
        }
        return arrays, measured


def make_card(
    config: TableFit, jobs: Sequence[Sequence[Job]], fit: Fit, arrays: Any, measured: Floats
) -> dict[str, Any]:
    """The card but for its checksum: where the table comes from and what its predictions are worth."""
    job, recorded = jobs[0][0], fit.recorded
    attacks = [job.task.attack for job in jobs[0][: arrays["loss"].shape[1]]]
    repeated = np.unique(recorded.rows, return_counts=True)[1]
    names = ["clean", *attacks]
    deviation = np.sqrt((arrays["residuals"].astype(np.float64) ** 2).mean(axis=0))
    return {
        "format": FORMAT,
        "name": Path(config.out).name,
        "dataset": job.task.dataset,
        "attacks": attacks,
        "epsilon": job.task.radius,
        "teacher": job.task.teacher.to_dict(),
        "recipe": job.recipe.to_dict(),
        "images": fit.images,
        "networks": len(fit.params),
        "students": len(repeated),
        "trainings": len(recorded.rows),
        "repeated_students": int((repeated > 1).sum()),
        "folds": FOLDS,
        "held_out": {
            name: asdict(worth(arrays["held_out"][:, i].astype(np.float64), measured[:, i]))
            for i, name in enumerate(names)
        },
        "seed_deviation_angle": dict(zip(names, deviation.round(4).tolist(), strict=True)),
        "accuracy_mean": dict(zip(names, measured.mean(axis=0).round(4).tolist(), strict=True)),
        "accuracy_deviation": dict(zip(names, measured.std(axis=0).round(4).tolist(), strict=True)),
        "seconds_mean": dict(
            zip(["training", *attacks], recorded.seconds().mean(axis=0).round(3).tolist(), strict=True)
        ),
        "recording": asdict(config.recording) | {"store": "…"},
        "commit": commit(),
        "versions": versions(),
        "hardware": hardware(),
    }


def write_table(out: str, arrays: dict[str, NDArray[Any]], card: dict[str, Any]) -> dict[str, Any]:
    """Write both files, the card last; returns the card with the checksum of the arrays.

    Killed at any instant it leaves the old table, the new one, or arrays without a card, which is no table.
    """
    path = Path(out)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    card = {**card, "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
    text = json.dumps(card, indent=1) + "\n"
    write_files({path.with_suffix(".npz"): buffer.getvalue(), path.with_suffix(".json"): text.encode()})
    return card


def fit_table(config: TableFit) -> int:
    """Make the table, and say what it is worth; returns the exit code 0."""
    buffers = preset_entry(config.recording.preset).buffers()
    space = StudentSpace(resolve_teacher(config.recording.teacher, buffers.datasets[0]))
    attacks = tuple(buffers.attacks)
    jobs = recorded_jobs(config.recording, space, attacks)
    recorded = gather(open_store(config.recording.store), jobs, space, len(attacks))
    fit = Fit(space, recorded)
    arrays, measured = fit.arrays()
    card = write_table(config.out, arrays, make_card(config, jobs, fit, arrays, measured))
    print(
        json.dumps({key: card[key] for key in ("students", "trainings", "held_out", "seed_deviation_angle")}, indent=1)
    )
    return 0


def main() -> int:
    """Command line."""
    kept = "No half table is left, and what was recorded is in the store."
    try:
        config = tyro.cli(TableFit, description=__doc__)
        return stoppable(lambda: fit_table(config), "fit_table", kept)
    except (ValueError, OSError) as error:
        print(f"fit_table: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
