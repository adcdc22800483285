"""Tables: what ships with the package, what a table answers, and what is refused as one."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from experiments.table_model import worth
from rcnas_env.cost import cost
from rcnas_env.registry import UnknownNameError
from rcnas_env.tabular.table import (
    ANGLE_UNIT,
    CARD_FIELDS,
    TABLES,
    Table,
    TableError,
    expected_shares,
    known_tables,
    load_table,
    residual_index,
)

FLOORS = {"r2": 0.72, "tau": 0.62}
"""What held-out predictions of a shipped table are worth at least, under every attack."""

CEILINGS = {"top_regret": 0.03}
"""What trusting them may cost at most, in accuracy: "digits" loses 0.019 to 0.025."""

MOST_BYTES = 2_000_000
NAMES = known_tables()
ROUNDING = 1e-4
"""`held_out` is float32, and the card's figures are of the same numbers."""


def names_of(table: Table) -> list[str]:
    return ["clean", *table.attacks]


# -- what ships ----------------------------------------------------------------------------------------


def test_digits_and_fashion_mnist_ship() -> None:
    assert NAMES == ("digits", "fashion-mnist-14")
    assert all(load_table(name).dataset == name for name in NAMES)
    assert load_table("digits") is load_table("digits")
    assert load_table("digits").name == "digits"


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_table_is_small_and_plain(name: str) -> None:
    arrays, card = TABLES / f"{name}.npz", TABLES / f"{name}.json"
    assert arrays.stat().st_size + card.stat().st_size < MOST_BYTES
    fields = json.loads(card.read_text(encoding="utf-8"))
    assert hashlib.sha256(arrays.read_bytes()).hexdigest() == fields["sha256"]
    with np.load(arrays, allow_pickle=False) as archive:
        assert all(archive[key].dtype.kind in "iuf" for key in archive.files)
        floats = [archive[key] for key in archive.files if archive[key].dtype.kind == "f"]
    assert all(np.isfinite(array).all() for array in floats)


@pytest.mark.parametrize("name", NAMES)
def test_costs_are_exact_for_every_network(name: str) -> None:
    table = load_table(name)
    costs = [cost(table.space.network(row)) for row in range(len(table.space))]
    assert table.params.tolist() == [each.params for each in costs]
    assert table.macs.tolist() == [each.macs for each in costs]


@pytest.mark.parametrize("name", NAMES)
def test_the_card_counts_what_the_arrays_hold(name: str) -> None:
    table = load_table(name)
    rows, seeds = table.array("recorded_row"), table.array("recorded_seed")
    assert len({*zip(rows.tolist(), seeds.tolist(), strict=True)}) == len(rows) == table.card["trainings"]
    distinct, counts = np.unique(rows, return_counts=True)
    assert (len(distinct), int((counts > 1).sum())) == (table.card["students"], table.card["repeated_students"])
    assert (len(table.space), table.images) == (table.card["networks"], table.recipe.n_eval)
    assert len(table.array("residuals")) == counts[counts > 1].sum()
    correct = table.array("recorded_correct")
    assert (correct <= table.images).all() and (correct[:, 1:] <= correct[:, :1]).all()
    np.testing.assert_allclose(table.array("lips_pattern").mean(axis=1), 1, rtol=1e-5)
    deviation = np.sqrt((table.array("residuals").astype(float) ** 2).mean(axis=0))
    np.testing.assert_allclose(deviation, [*table.card["seed_deviation_angle"].values()], atol=ROUNDING)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_predictions_are_worth(name: str) -> None:
    table = load_table(name)
    rows, records = np.unique(table.array("recorded_row"), return_inverse=True)
    trainings = np.bincount(records)
    assert list(table.card["held_out"]) == names_of(table)
    for column, attack in enumerate(names_of(table)):
        shares = table.array("recorded_correct")[:, column] / table.images
        measured = np.bincount(records, weights=shares) / trainings
        predicted = table.array("held_out")[:, column].astype(float)
        assert len(predicted) == len(rows)
        said, found = table.card["held_out"][attack], worth(predicted, measured)
        # R² and τ once more, by their definitions
        r2 = 1 - ((predicted - measured) ** 2).sum() / ((measured - measured.mean()) ** 2).sum()
        tau = stats.kendalltau(predicted, measured).statistic
        assert (found.r2, found.tau) == (pytest.approx(r2), pytest.approx(tau))
        assert said == pytest.approx(vars(found), abs=ROUNDING)
        assert {key: said[key] for key, floor in FLOORS.items() if not said[key] >= floor} == {}, attack
        assert {key: said[key] for key, ceiling in CEILINGS.items() if not 0 <= said[key] <= ceiling} == {}, attack
        assert said["top_regret"] < measured.max() - np.median(measured)  # better than taking any


# -- what a table answers ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table() -> Table:
    return load_table("digits")


def test_recorded_accuracies_are_returned_as_they_were_recorded(table: Table) -> None:
    rows, seeds, correct = (table.array(f"recorded_{part}") for part in ("row", "seed", "correct"))
    for seed in np.unique(seeds).tolist():
        mine = seeds == seed
        found = table.accuracies(rows[mine].astype(np.int64), seed)
        assert (found == correct[mine] / table.images).all()
        whole = table.accuracies_of_all(seed)
        assert (whole[rows[mine]] == found).all() and not whole.flags.writeable
        assert all(table.is_recorded(int(row), seed) for row in rows[mine])
        known = sum(table.is_recorded(row, seed) for row in range(len(table.space)))
        assert known == mine.sum()
    assert not any(table.is_recorded(row, 99) for row in range(len(table.space)))


@pytest.mark.parametrize("seed", [0, 5, 2**31])
def test_accuracies_are_whole_images_and_robust_ones_correct_clean_too(table: Table, seed: int) -> None:
    counts = table.accuracies_of_all(seed) * table.images
    assert counts.shape == (len(table.space), 1 + len(table.attacks))
    assert (counts == np.rint(counts)).all() and counts.min() >= 0 and counts.max() <= table.images
    assert (counts[:, 1:] <= counts[:, :1]).all()


@pytest.mark.parametrize("deviation", [0.02, 0.1, 0.4])
def test_expected_shares_are_the_mean_over_noise(deviation: float) -> None:
    """For Gaussian noise E[sin²(a + e)] = ½ (1 − cos 2a · exp(−2σ²)); and Monte Carlo says so too."""
    angles = np.linspace(0, np.pi / 2, 9)[:, None]
    # the quantiles at midpoints, symmetric, integrate smooth functions far better than draws would
    quantiles = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000, scale=deviation)[:, None]
    closed = 0.5 * (1 - np.cos(2 * angles) * np.exp(-2 * deviation**2))
    np.testing.assert_allclose(expected_shares(angles, quantiles), closed, atol=2e-5)
    draws = np.random.default_rng(0).normal(0.05, deviation, (50_000, 1))  # mean not zero: the sine counts
    outcomes = np.sin(angles.T + draws) ** 2
    error = outcomes.std(axis=0) / np.sqrt(len(draws))
    closed = 0.5 * (1 - np.cos(2 * (angles[:, 0] + 0.05)) * np.exp(-2 * deviation**2))
    found = expected_shares(angles, draws)[:, 0]
    np.testing.assert_allclose(found, outcomes.mean(axis=0), rtol=1e-9)
    assert (np.abs(found - closed) < 5 * error + 1e-12).all()


def test_expected_accuracies_are_those_of_the_stored_angles_and_residuals(table: Table) -> None:
    rows = np.random.default_rng(1).integers(len(table.space), size=50)
    residuals = table.array("residuals").astype(float)
    angles = table.array("angle")[rows] * ANGLE_UNIT
    by_hand = (np.sin(angles[:, None] + residuals) ** 2).mean(axis=1)
    np.testing.assert_allclose(table.expected[rows], by_hand, rtol=1e-9)
    assert table.expected.min() >= 0 and table.expected.max() <= 1


def test_over_many_seeds_accuracies_have_the_expected_mean_and_the_measured_spread(table: Table) -> None:
    unrecorded = np.setdiff1d(np.arange(len(table.space)), table.array("recorded_row"))
    rows = np.random.default_rng(2).choice(unrecorded, 100, replace=False)
    seeds = 2_000
    found = np.stack([table.accuracies(rows, seed) for seed in range(1_000, 1_000 + seeds)])
    expected = table.expected[rows]
    error = found.std(axis=0) / np.sqrt(seeds)
    # a robust accuracy near the clean one is cut to it; half an image is the most that rounding can move
    apart = expected + 4 * found.std(axis=0) < np.c_[np.ones(len(rows)), np.tile(expected[:, :1], len(table.attacks))]
    assert apart.mean() > 0.8
    assert (np.abs(found.mean(axis=0) - expected) < 5 * error + 0.5 / table.images)[apart].all()
    bias = (found.mean(axis=0) - expected)[apart]
    assert abs(bias.mean()) < 0.1 / table.images
    spread = np.arcsin(np.sqrt(found)).std(axis=0)
    measured = np.array([*table.card["seed_deviation_angle"].values()])
    angles = table.array("angle")[rows] * ANGLE_UNIT
    inside = apart & (angles > 4 * measured) & (angles < np.pi / 2 - 4 * measured)  # not folded at 0 or 1
    assert (inside.sum(axis=0) >= 5).all()
    for column, deviation in enumerate(measured):
        assert spread[inside[:, column], column].mean() == pytest.approx(deviation, rel=0.08)


def test_residuals_are_drawn_uniformly_and_anew_for_each_seed() -> None:
    count, rows = 40, np.arange(20_000)
    singles, pairs = [], []  # p-values of χ² tests, which are uniform where the residuals are
    for seed in (*range(100), 2**31, 2**32 - 1):
        found = residual_index(rows, seed, count)
        singles.append(stats.chisquare(np.bincount(found, minlength=count)).pvalue)
        neighbours = np.bincount(found[::2] * count + found[1::2], minlength=count**2)
        pairs.append(stats.chisquare(neighbours).pvalue)
    assert stats.kstest(singles, "uniform").pvalue > 1e-3
    assert stats.kstest(pairs, "uniform").pvalue > 1e-3
    over_seeds = np.array([residual_index(np.array([123]), seed, count)[0] for seed in range(4_000)])
    assert stats.chisquare(np.bincount(over_seeds, minlength=count)).pvalue > 1e-3
    for one, other in itertools.combinations((0, 1, 2, 1_000), 2):
        equal = (residual_index(rows, one, count) == residual_index(rows, other, count)).sum()
        assert stats.binomtest(int(equal), len(rows), 1 / count).pvalue > 1e-3


def test_lips_loss_and_seconds_of_one_are_those_of_the_batch(table: Table) -> None:
    rng = np.random.default_rng(3)
    rows, attacks = rng.integers(len(table.space), size=20), rng.integers(len(table.attacks), size=20)
    lips, (training, attacking) = table.lips(rows, attacks), table.seconds(rows, attacks)
    assert (lips.shape, lips.dtype, lips.min() >= 0) == ((20, table.images), np.float32, True)
    for index, (row, attack) in enumerate(zip(rows.tolist(), attacks.tolist(), strict=True)):
        np.testing.assert_allclose(table.lips_of(row, attack), lips[index], rtol=1e-6)
        assert lips[index].mean() == pytest.approx(np.exp(float(table.array("lips_scale")[row, attack])), rel=1e-5)
        assert table.seconds_of(row, attack) == pytest.approx((training[index], attacking[index]))
        assert table.loss(row, attack) == pytest.approx(np.exp(float(table.array("loss")[row, attack])))
    assert training.min() > 0 and attacking.min() > 0


def test_arrays_cannot_be_changed(table: Table) -> None:
    with pytest.raises(ValueError, match="read-only"):
        table.array("angle")[0] = 0


# -- what is refused -----------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A copy of the table's files; the path without ending."""
    for ending in (".npz", ".json"):
        shutil.copy(TABLES / f"digits{ending}", tmp_path / f"mine{ending}")
    return tmp_path / "mine"


def rewrite(base: Path, arrays: dict[str, Any]) -> None:
    """Other arrays, with their checksum in the card."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    base.with_suffix(".npz").write_bytes(buffer.getvalue())
    change_card(base, sha256=hashlib.sha256(buffer.getvalue()).hexdigest())


def change_card(base: Path, **changes: Any) -> None:
    card = json.loads(base.with_suffix(".json").read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in card.items() if value is not None}
    base.with_suffix(".json").write_text(json.dumps(kept), encoding="utf-8")


def arrays_of(base: Path) -> dict[str, Any]:
    with np.load(base.with_suffix(".npz"), allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def test_a_table_is_found_by_its_path(files: Path) -> None:
    for path in (files, files.with_suffix(".npz"), files.with_suffix(".json")):
        assert (load_table(str(path)).expected == load_table("digits").expected).all()


def test_a_table_that_was_written_anew_is_read_anew(files: Path) -> None:
    before = load_table(str(files))
    assert load_table(str(files)) is before
    change_card(files, name="renamed")
    assert load_table(str(files)).name == "renamed"


def test_a_damaged_byte_is_noticed(files: Path) -> None:
    content = bytearray(files.with_suffix(".npz").read_bytes())
    content[len(content) // 2] ^= 1
    files.with_suffix(".npz").write_bytes(bytes(content))
    with pytest.raises(TableError, match="mine.npz must have the checksum that its card names"):
        load_table(str(files))


@pytest.mark.parametrize("name", ["params", "angle", "lips_pattern", "residuals", "recorded_correct", "held_out"])
def test_a_missing_array_and_one_of_another_shape_are_named(files: Path, name: str) -> None:
    arrays = arrays_of(files)
    rewrite(files, {key: value for key, value in arrays.items() if key != name})
    with pytest.raises(TableError, match=f"table must have the arrays .*: missing '{name}'"):
        load_table(str(files))
    rewrite(files, arrays | {name: arrays[name][..., :-1]})
    with pytest.raises(TableError, match=rf"table's {name} must have shape \(.*\), got \("):
        load_table(str(files.with_suffix(".npz")))  # a path not loaded before


@pytest.mark.parametrize("field", CARD_FIELDS)
def test_a_card_that_lacks_a_field_is_refused(files: Path, field: str) -> None:
    change_card(files, **{field: None})
    with pytest.raises(TableError, match=f"mine.json must be a card of format 1 with .*{field}"):
        load_table(str(files))


def test_another_format_and_no_card_are_refused(files: Path) -> None:
    change_card(files, format=2)
    with pytest.raises(TableError, match="mine.json must be a card of format 1"):
        load_table(str(files))
    for text, message in (("[]", "must be a card"), ("{", "must be a table's card in JSON")):
        files.with_suffix(".json").write_text(text, encoding="utf-8")
        with pytest.raises(TableError, match=f"mine.json {message}"):
            load_table(str(files))


@pytest.mark.parametrize("content", [b"no archive", b"PK\x03\x04 cut off"], ids=["text", "cut off"])
def test_arrays_that_are_no_archive_are_refused_though_their_checksum_fits(files: Path, content: bytes) -> None:
    files.with_suffix(".npz").write_bytes(content)
    change_card(files, sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(TableError, match="mine.npz"):
        load_table(str(files))


@pytest.mark.parametrize(
    "changes", [{"teacher": 3}, {"recipe": 3}, {"attacks": 3}], ids=["teacher", "recipe", "attacks"]
)
def test_a_card_whose_fields_are_of_another_kind_is_refused(files: Path, changes: dict[str, Any]) -> None:
    change_card(files, **changes)
    with pytest.raises(TableError, match=next(iter(changes))):
        load_table(str(files))


def test_a_table_may_have_a_dot_in_its_name(files: Path) -> None:
    for ending in (".npz", ".json"):
        files.with_suffix(ending).rename(files.parent / f"mine.v2{ending}")
    for name in ("mine.v2.npz", "mine.v2"):
        assert len(load_table(str(files.parent / name)).space) == len(load_table("digits").space)


def test_an_unknown_name_is_told_with_those_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown table 'digit'; known: digits.*Did you mean 'digits'"):
        load_table("digit")
    with pytest.raises(UnknownNameError, match="unknown table"):
        load_table(str(tmp_path / "none"))
