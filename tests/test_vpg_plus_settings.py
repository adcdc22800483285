"""Settings of vpg+: their ranges, and what two of the switches turn off."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

from agents.vpg_plus import Drawn, VPGPlus, VPGPlusConfig, attack_key
from tests.landscape import encoder, environments, task, teacher


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("budget", 1), ("critic", "yes"), ("distinct", None), ("own_choice", 0), ("normalise", "no"),
        ("teachers", 2), ("state_baseline", "off"),
        ("draws", 0), ("draws", 2.5), ("epochs", 0), ("epochs", True), ("optimism", -0.1),
        ("optimism", float("nan")), ("advantage_clip", 0), ("ratio_clip", 0.0), ("ratio_clip", "wide"),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"vpg\+\.{field} must be .*got {value!r}"):
        VPGPlusConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("field", "value"), [("learning_rate", 0), ("entropy_bonus", -1.0), ("hidden", 0)])
def test_vpgs_own_settings_are_checked_too(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"vpg\.{field} must be .*got {value!r}"):
        VPGPlusConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"), [("exploring", -1), ("exploring", 2.5), ("over_budget", float("nan")), ("over_budget", "much")]
)
def test_a_setting_of_draws_that_are_not_tried_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"vpg\+\.{field} must be .*got {value!r}"):
        VPGPlusConfig(**{field: value})  # type: ignore[arg-type]


def test_with_as_few_draws_as_exploring_ones_the_first_is_still_learnt_from() -> None:
    agent = VPGPlus(encoder(), VPGPlusConfig(draws=2, exploring=2, critic=False))
    before = deepcopy(agent.policy.state_dict())
    assert np.isfinite(agent.learn(environments(4), 3)[-1].update.entropy)
    assert any(not torch.equal(before[name], value) for name, value in agent.policy.state_dict().items())


@pytest.mark.parametrize("teachers", [True, False])
def test_the_critic_hears_of_the_teachers_accuracy_unless_it_is_not_to(teachers: bool) -> None:
    agent = VPGPlus(encoder(), VPGPlusConfig(teachers=teachers))
    trials = agent.search(environments(2), 6)
    attack = attack_key(task())
    assert agent.critic.knows(task().teacher, attack) == teachers
    evaluated = {trial.student for trial in trials if trial.within_budget}
    assert evaluated and all(agent.critic.knows(student, attack) for student in evaluated)
    assert len(agent.critic) == len(evaluated) + teachers


def test_without_a_baseline_of_the_state_values_are_held_against_the_batch() -> None:
    nothing, values = torch.zeros(3, 3, 2), np.array([0.5, 0.1, -1.0])
    over = np.array([False, False, True])
    drawn = Drawn(task(), [teacher()] * 3, nothing, nothing, nothing, torch.zeros(3), values, over)
    for normalise, unit in ((False, 1.0), (True, 0.2)):  # 0.2: the deviation of 0.5 and 0.1
        config = VPGPlusConfig(exploring=0, state_baseline=False, normalise=normalise)
        found = VPGPlus(encoder(), config)._advantages(drawn, overall=0.2)
        assert found == pytest.approx([0.3 / unit, -0.1 / unit, -1.0], rel=1e-4)
