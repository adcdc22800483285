"""Recipes, and the checks of single values that they and everything else rest on."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcnas_env.training.method import known_methods
from rcnas_env.training.precision import PRECISIONS
from rcnas_env.training.recipe import COMPILATIONS, LATER_FIELDS, SCHEDULES, Recipe
from rcnas_env.validation import (
    require_boolean,
    require_choice,
    require_fields,
    require_integer,
    require_number,
)

NAN, INF = math.nan, math.inf
POSITIVE = st.floats(1e-6, 1e6)
RECIPES = st.builds(
    Recipe,
    method=st.sampled_from(known_methods()),
    epochs=st.integers(1, 100),
    batch_size=st.integers(2, 10_000),
    learning_rate=POSITIVE,
    momentum=st.floats(0, 1),
    weight_decay=st.floats(0, 1),
    schedule=st.sampled_from(SCHEDULES),
    gradient_clip=POSITIVE,
    beta=st.floats(0, 10),
    epsilon=st.none() | st.floats(1e-3, 1),
    inner_steps=st.integers(1, 50),
    relative_step=POSITIVE,
    precision=st.sampled_from(PRECISIONS),
    folded=st.booleans(),
    compilation=st.sampled_from(COMPILATIONS),
    augment=st.booleans(),
    n_eval=st.integers(1, 1_000),
    n_train=st.none() | st.integers(2, 1_000),
    n_test=st.none() | st.integers(1, 1_000),
    attack_batch_size=st.integers(1, 1_000),
    threads=st.integers(1, 8),
)


def test_defaults_are_the_paper_s() -> None:
    recipe = Recipe()
    assert (recipe.method, recipe.epochs, recipe.beta, recipe.n_eval) == ("trades", 5, 6.0, 256)
    assert (recipe.learning_rate, recipe.momentum, recipe.batch_size, recipe.inner_steps) == (0.1, 0.9, 128, 10)


@given(RECIPES)
def test_recipes_go_to_json_and_back(recipe: Recipe) -> None:
    again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict(), allow_nan=False)))
    assert again == recipe
    assert hash(again) == hash(recipe)
    later = {name for name, default in LATER_FIELDS.items() if getattr(recipe, name) == default}
    assert set(recipe.to_dict()) == {field.name for field in fields(Recipe)} - later
    assert {name: getattr(Recipe(), name) for name in LATER_FIELDS} == LATER_FIELDS


BAD = {
    "method": ["sat!", None],
    "schedule": ["cosine", 1],
    "precision": ["fp16", None],
    "folded": [1, "yes", None],
    "compilation": ["on", True, None],
    "augment": [1, "yes", None],
    "n_train": [1, 2.5, "all"],
    "epochs": [0, -1, 1.5, True, "5", None],
    "batch_size": [1, 0, 128.0],
    "inner_steps": [0, 2.5],
    "n_eval": [0, None, 1e3],
    "n_test": [0, -1, 2.0, True],
    "attack_batch_size": [0, None],
    "threads": [0, -1],
    "learning_rate": [0, -0.1, NAN, INF, "0.1", None, True],
    "gradient_clip": [0, -5, INF],
    "relative_step": [0, NAN],
    "momentum": [-0.1, NAN, None],
    "weight_decay": [-1e-9, INF],
    "beta": [-1, NAN],
    "epsilon": [0, -0.1, 1.01, NAN, "8/255", True],
}


def test_every_field_is_tried() -> None:
    assert set(BAD) == {field.name for field in fields(Recipe)}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_fields_are_named_with_their_value(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^recipe\.{name} must be ") as caught:
        Recipe(**{name: value})
    assert str(caught.value).endswith(f"got {value!r}")
    with pytest.raises(ValueError, match=rf"^recipe\.{name} must be "):
        Recipe().but(**{name: value})


def test_unknown_fields_are_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no other fields than method, epochs, .*, threads: unknown 'epoch'"):
        Recipe.from_dict({"epoch": 3})


def test_absent_fields_keep_their_defaults() -> None:
    assert Recipe.from_dict({"epochs": 3}) == Recipe(epochs=3) == Recipe().but(epochs=3) != Recipe()


def test_numbers_of_other_libraries_become_python_s() -> None:
    recipe = Recipe(epochs=np.int64(3), learning_rate=np.float32(0.5), epsilon=np.float64(0.25), beta=6)  # type: ignore[arg-type]
    assert [type(x) for x in (recipe.epochs, recipe.learning_rate, recipe.epsilon, recipe.beta)] == [int] + [float] * 3
    assert recipe == Recipe(epochs=3, learning_rate=0.5, epsilon=0.25)


@given(st.integers(-20, 20), st.integers(-10, 10), st.none() | st.integers(-10, 10))
def test_integers_within_their_range_pass(value: int, low: int, high: int | None) -> None:
    if low <= value and (high is None or value <= high):
        assert require_integer("n", value, low, high) == value
    else:
        with pytest.raises(ValueError, match=rf"^n must be an integer .*, got {value}$"):
            require_integer("n", value, low, high)


@given(st.floats(), st.floats(-10, 0), st.floats(0, 10), st.booleans())
def test_numbers_within_their_range_pass(value: float, low: float, high: float, open_below: bool) -> None:
    if math.isfinite(value) and low <= value <= high and not (open_below and value == low):
        assert require_number("x", value, minimum=low, maximum=high, exclusive_minimum=open_below) == value
    else:
        with pytest.raises(ValueError, match=r"^x must be a finite number, .*, got "):
            require_number("x", value, minimum=low, maximum=high, exclusive_minimum=open_below)


@pytest.mark.parametrize("value", [True, "3", None, 3.0, Fraction(3), [3]])
def test_what_is_no_integer_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="^n must be an integer of at least 0, got"):
        require_integer("n", value, 0)


@pytest.mark.parametrize("value", [False, "3", None, 3j, [3.0]])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="^x must be a finite number, got"):
        require_number("x", value)


def test_fractions_and_numpy_numbers_are_numbers() -> None:
    assert require_number("x", Fraction(1, 4)) == 0.25
    assert type(require_number("x", np.float32(0.25))) is float
    assert type(require_integer("n", np.int8(3), 0)) is int


def test_booleans_choices_and_fields() -> None:
    assert require_boolean("b", False) is False
    assert require_choice("c", "two", ("one", "two")) == "two"
    assert require_fields("f", {"a": 1, "b": 2}, ("a",), ("b", "c")) == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match="^b must be true or false, got 0$"):
        require_boolean("b", 0)
    with pytest.raises(ValueError, match=r"^c must be one of 'one', 'two', got \['one'\]$"):
        require_choice("c", ["one"], ("one", "two"))
    with pytest.raises(ValueError, match=r"^f must have the fields a, b \(optional\): missing 'a', unknown 'z'$"):
        require_fields("f", {"z": 1}, ("a",), ("b",))
    with pytest.raises(ValueError, match=r"^f must be an object with the fields a, got None$"):
        require_fields("f", None, ("a",))
