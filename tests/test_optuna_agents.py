"""TPE and Bayesian optimisation: what Optuna is asked and told, and what it leaves behind."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

from agents.bayesian import BayesianOptimisation
from agents.black_box import hybrid_action
from agents.optuna_search import OptunaSearch, action_of, parameters, search_space
from agents.tpe import TPE
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from rcnas_env.task import Task
from tests.landscape import environments, task

BOTH = [TPE, BayesianOptimisation]
"""The searchers on Optuna's samplers."""


@given(
    arrays(np.float32, (3, 2), elements=st.floats(0, 1, width=32)), arrays(np.int8, (3, 2), elements=st.integers(0, 1))
)
def test_parameters_stand_for_an_action_without_loss(keep: Any, switch: Any) -> None:
    given_ = parameters(hybrid_action(keep, switch))
    space = search_space(3, CategoricalDistribution((0, 1)))
    assert set(given_) == set(space)
    assert all(space[name]._contains(space[name].to_internal_repr(value)) for name, value in given_.items())
    back = action_of(given_, 3)
    np.testing.assert_array_equal(back["keep"], keep)
    np.testing.assert_array_equal(back["switch"], switch)


class Recording(OptunaSearch):
    """Optuna's random sampler, with every study that it was asked in."""

    name = "recording"

    def __init__(self, task: Task, seed: int = 0, startup: int = 2) -> None:
        super().__init__(task, seed, startup)
        self.studies: list[optuna.Study] = []

    def sampler(self, seed: int) -> BaseSampler:
        searcher = self

        class Noting(RandomSampler):
            def before_trial(self, study: optuna.Study, trial: Any) -> None:
                searcher.studies.append(study)
                super().before_trial(study, trial)

        return Noting(seed)


def test_the_sampler_is_told_every_outcome_and_over_budget_ones_for_nothing() -> None:
    tight = task(budget_share=0.05)
    agent = Recording(tight)
    trials = agent.search(environments(1, tight), 8)
    assert len(trials) == len(agent.spent()) == 8
    free = [each for each in agent.history if not each.spent]
    assert free and {each.reward for each in free} == {-1.0}
    assert all(cost(each.student).macs > tight.budget for each in free)
    study = agent.studies[-1]
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    told = [each for each in study.get_trials() if each.state == optuna.trial.TrialState.COMPLETE]
    assert [(each.params, each.value) for each in told] == [
        (parameters(each.action), each.reward) for each in agent.history[: len(told)]
    ]
    assert len(told) == len(agent.history) - 1


def test_a_sampler_that_keeps_to_the_forbidden_is_not_asked_for_ever() -> None:
    tight = task(budget_share=0.004)
    agent = Recording(tight, startup=1)
    assert [trial.within_budget for trial in agent.search(environments(1, tight), 3)] == [True] * 3
    assert sum(not each.spent for each in agent.history) <= 40


@pytest.mark.parametrize(("kind", "sampler"), [(TPE, TPESampler), (BayesianOptimisation, GPSampler)])
def test_proposals_after_the_start_are_the_samplers_own(kind: type[OptunaSearch], sampler: type[BaseSampler]) -> None:
    agent = kind(task(), seed=4, startup=5)
    agent.search(environments(1), 6)
    assert type(agent.sampler(0)) is sampler
    reference = kind(task(), seed=4, startup=5)
    for tried in agent.history[:5]:
        reference.observe(tried)
    space = search_space(3, reference.switch_distribution)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="maximize", sampler=reference.sampler(reference.stream_seed("sampler") % 2**32)
    )
    study.add_trials(
        [
            optuna.create_trial(params=parameters(t.action), distributions=space, value=t.reward)
            for t in agent.history[:5]
        ]
    )
    asked = study.ask(space)
    optuna.logging.set_verbosity(verbosity)
    assert compress(task().teacher, action_of(asked.params, 3)) == agent.history[5].student


@pytest.mark.parametrize("kind", BOTH)
def test_optuna_is_silent_and_its_verbosity_is_the_users(
    kind: type[OptunaSearch], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    optuna.logging.set_verbosity(optuna.logging.INFO)
    kind(task(), startup=3).search(environments(2), 5)
    assert optuna.logging.get_verbosity() == logging.getLogger("optuna").level == logging.INFO
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("startup", [0, 1.5, True])
def test_a_startup_out_of_range_is_named(startup: Any) -> None:
    with pytest.raises(ValueError, match=f"startup must be an integer of at least 1, got {startup}"):
        TPE(task(), startup=startup)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "agent file must hold 'TPE' in format 1, got 'TPE' in format 2"),
        ({"agent": "GP"}, "agent file must hold 'TPE' in format 1, got 'GP'"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"settings": {"start": 1}}, "agent file must hold settings of 'TPE'"),
        ({"history": [{"reward": 1.0}]}, "history entry must have the fields .*missing 'keep'"),
        ({"surplus": 0}, "agent file must have the fields .*unknown 'surplus'"),
    ],
)
def test_a_damaged_file_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    agent, path = TPE(task()), tmp_path / "agent.json"
    agent.search(environments(1), 2)
    agent.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        TPE.load(path)
