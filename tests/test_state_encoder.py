"""The state encoder against Eq. 2 and its pre-training against Eq. 10, each written out by hand."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agents.pretraining import diverse_observations
from agents.state_encoder import Features, StateDecoder, StateEncoder, features, pretrain, reconstruction_loss
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from rcnas_env.evaluation.analytic import AnalyticEvaluator
from rcnas_env.evaluation.job import Job
from rcnas_env.training.recipe import Recipe
from rcnas_env.wrappers import EncodedState
from tests.landscape import N_EVAL, encoder, observations, task, teacher


def changed(inputs: Features, part: str, index: tuple[slice | int, ...]) -> Features:
    """`inputs` with half added to `part` at `index`."""
    parts = {name: getattr(inputs, name).clone() for name in ("stages", "lips", "cost")}
    parts[part][index] += 0.5
    return Features(**parts)


def measured() -> tuple[list[Job], list[float]]:
    """Jobs of two teachers under three attacks, and nothing trained."""
    tasks = [
        task(attack, network=net) for net in (teacher(2, 32), teacher(4, 64)) for attack in ("clean", "fgsm", "cw-40")
    ]
    jobs = [Job(each.teacher, each, Recipe(n_eval=N_EVAL)) for each in tasks]
    return jobs, [cost(job.network).macs / 1e9 for job in jobs]


def pretraining_set(count: int = 200, seed: int = 0) -> dict[str, np.ndarray]:
    jobs, _ = measured()
    return diverse_observations([job.network for job in jobs], AnalyticEvaluator().evaluate(jobs), count, seed)


def test_features_are_the_documented_logarithms() -> None:
    observation = {
        "stages": np.array([[1023, 31, 1, 0], [1, 1, 0, 1], [63, 3, 1, 1]], np.float32),
        "lips": np.array([0, 9, 99], np.float32),
        "cost": np.array([1e-3, 1e-3, 1e-3], np.float32),
    }
    found = features(observation)
    expected = [[1.0, 1.0, 1, 0], [0.1, 0.2, 0, 1], [0.6, 0.4, 1, 1]]
    torch.testing.assert_close(found.stages, torch.tensor([expected]))
    torch.testing.assert_close(found.lips, torch.tensor([[0.0, 1, 2]]))
    torch.testing.assert_close(found.cost, torch.zeros(1, 3), atol=1e-6, rtol=0)
    assert features({**observation, "cost": np.array([10.0], np.float32)}).cost.item() == pytest.approx(1.0)
    assert features({**observation, "cost": np.zeros(1, np.float32)}).cost.isfinite().all()


def test_a_single_observation_is_a_batch_of_one() -> None:
    batch = observations(count=3)
    single = features({part: value[1] for part, value in batch.items()})
    for part in ("stages", "lips", "cost"):
        assert torch.equal(getattr(single, part), getattr(features(batch), part)[1:2])


def test_states_and_reconstructions_have_their_shapes() -> None:
    model = StateEncoder(N_EVAL, hidden=5, state=7)
    states = model(features(observations(count=4)))
    assert states.shape == (4, 3, 7)
    outputs = StateDecoder(model)(states)
    assert outputs.stages.shape == (4, 3, 4)
    assert outputs.lips.shape == outputs.cost.shape == (4, 3, N_EVAL)


def one_way(source: nn.LSTM, suffix: str) -> nn.LSTM:
    """The LSTM of one direction of a bidirectional one."""
    single = nn.LSTM(source.input_size, source.hidden_size, batch_first=True)
    single.load_state_dict({name: getattr(source, name + suffix) for name, _ in single.named_parameters()})
    return single


def test_the_state_is_equation_2() -> None:
    model, inputs = encoder(), features(observations())
    forward, _ = one_way(model.lstm, "")(inputs.stages)
    backward, _ = one_way(model.lstm, "_reverse")(inputs.stages.flip(1))
    backward = backward.flip(1)
    states = model(inputs)
    for i, mlp in enumerate(model.mlps):
        expected = mlp(torch.cat([inputs.lips, forward[:, i], backward[:, i], inputs.cost], dim=1))
        torch.testing.assert_close(states[:, i], expected)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_every_stage_knows_of_every_other(stage: int) -> None:
    model, inputs = encoder(), features(observations())
    moved = (model(changed(inputs, "stages", (slice(None), stage))) - model(inputs)).abs().amax(dim=2)
    assert (moved > 1e-4).all(), moved


def test_the_forward_pass_summarises_earlier_stages_the_backward_pass_later_ones() -> None:
    model, inputs = encoder(), features(observations())
    before, _ = model.lstm(inputs.stages)
    after, _ = model.lstm(changed(inputs, "stages", (slice(None), 1)).stages)
    moved = (after - before).abs().amax(dim=0) > 1e-6
    forward, backward = moved[:, : model.hidden].any(dim=1), moved[:, model.hidden :].any(dim=1)
    assert forward.tolist() == [False, True, True]
    assert backward.tolist() == [True, True, False]


@pytest.mark.parametrize("part", ["lips", "cost"])
def test_every_state_depends_on_every_entry_of_lips_and_cost(part: str) -> None:
    model, inputs = encoder(), features(observations())
    for entry in range(N_EVAL):
        moved = (model(changed(inputs, part, (slice(None), entry))) - model(inputs)).abs().amax(dim=2)
        assert (moved > 1e-4).all(), (part, entry)


def test_encode_is_the_flat_state_that_the_wrapper_wants() -> None:
    model = encoder()
    env = gym.make(
        "RCNAS-v0", tasks=task(), engine="analytic", store=None, recipe={"n_eval": N_EVAL}, disable_env_checker=True
    )
    observation, _ = env.reset(seed=0)
    state = model.encode(observation)
    assert state.dtype == np.float32
    with torch.no_grad():
        expected = model(features(observation))
    np.testing.assert_array_equal(state, expected.flatten().numpy())
    wrapped = EncodedState(env, model.encode, 3 * model.state)
    encoded, _ = wrapped.reset(seed=0)
    assert wrapped.observation_space.contains(encoded)
    np.testing.assert_array_equal(encoded, state)
    env.close()


def squared_error(inputs: Features, outputs: Features) -> float:
    """Eq. 10 entry by entry, a mean for each of LIPS, ST_i and CT."""
    totals = {"lips": 0.0, "stages": 0.0, "cost": 0.0}
    for part in totals:
        given, rebuilt = getattr(inputs, part), getattr(outputs, part)
        errors = [
            (float(rebuilt[b, i, j]) - float(given[b, i, j] if part == "stages" else given[b, j])) ** 2
            for b in range(rebuilt.shape[0])
            for i in range(rebuilt.shape[1])
            for j in range(rebuilt.shape[2])
        ]
        totals[part] = sum(errors) / len(errors)
    return sum(totals.values())


def test_the_reconstruction_loss_is_equation_10() -> None:
    model, inputs = encoder(), features(observations())
    with torch.no_grad():
        outputs = StateDecoder(model)(model(inputs))
    assert reconstruction_loss(inputs, outputs).item() == pytest.approx(squared_error(inputs, outputs), rel=1e-5)
    perfect = Features(inputs.stages, *(value.unsqueeze(1).expand(-1, 3, -1) for value in (inputs.lips, inputs.cost)))
    assert reconstruction_loss(inputs, perfect).item() == 0


def test_pretraining_cuts_the_loss_to_a_tenth_and_freezes_the_encoder() -> None:
    model, seen = encoder(), list[float]()
    held_out = features(pretraining_set(seed=1))
    losses = pretrain(model, pretraining_set(), steps=150, on_step=seen.append)
    assert seen == losses and len(losses) == 150
    assert np.mean(losses[-10:]) < 0.1 * np.mean(losses[:3])
    assert not any(parameter.requires_grad for parameter in model.parameters())
    states = model(held_out)
    assert not states.requires_grad
    # states of different tasks stay apart: a collapsed encoder would tell the agent nothing
    assert torch.pdist(states[:50].flatten(1)).median() > 0.5


def test_pretraining_takes_both_encoder_and_decoder_along() -> None:
    """A decoder alone, behind the same encoder left at random, does worse on what it was trained on."""
    data = pretraining_set()
    trained = pretrain(encoder(), data, steps=150)
    inputs, fixed = features(data), encoder()
    decoder = StateDecoder(fixed)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    with torch.no_grad():
        states = fixed(inputs)
    for _ in range(150):
        loss = reconstruction_loss(inputs, decoder(states))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert np.mean(trained[-10:]) < 0.8 * loss.item()


def weights(model: nn.Module) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def test_the_same_seed_gives_the_same_weights_and_the_global_stream_is_left_alone() -> None:
    state = torch.get_rng_state()
    twins = []
    for _ in range(2):
        model = encoder(seed=3)
        losses = pretrain(model, pretraining_set(), steps=5, seed=4)
        twins.append((losses, weights(model)))
    assert torch.equal(torch.get_rng_state(), state)
    assert twins[0][0] == twins[1][0]
    assert all(torch.equal(a, b) for a, b in zip(twins[0][1], twins[1][1], strict=True))
    assert not torch.equal(encoder(seed=3).lstm.weight_ih_l0, encoder(seed=5).lstm.weight_ih_l0)
    assert pretrain(encoder(seed=3), pretraining_set(), steps=5, seed=6) != twins[0][0]


def test_pretraining_observations_pair_exact_costs_with_measured_difficulty() -> None:
    jobs, gmacs = measured()
    evaluations = AnalyticEvaluator().evaluate(jobs)
    found = diverse_observations([job.network for job in jobs], evaluations, count=60, seed=2)
    assert {part: value.shape for part, value in found.items()} == {
        "stages": (60, 3, 4), "lips": (60, N_EVAL), "cost": (60, N_EVAL)
    }  # fmt: skip
    known = {tuple(np.float32(e.lips)) for e in evaluations}
    assert {tuple(row) for row in found["lips"]} == known
    for index, (job, evaluation) in enumerate(zip(jobs, evaluations, strict=True)):
        np.testing.assert_array_equal(found["lips"][index], np.float32(evaluation.lips))
        assert found["stages"][index, :, 0].tolist() == [stage.planes for stage in job.network.stages]
    np.testing.assert_allclose(found["cost"][: len(jobs), 0], gmacs, rtol=1e-6)
    assert len({row.tobytes() for row in found["stages"]}) > 50
    rng = np.random.default_rng(2)  # the first student, drawn again by hand
    source = jobs[int(rng.integers(len(jobs)))].network
    student = compress(source, {"keep": rng.random((3, 2)), "switch": rng.integers(0, 2, (3, 2))})
    expected = [[s.planes, s.depth, s.downsample, s.robust] for s in student.stages]
    np.testing.assert_array_equal(found["stages"][len(jobs)], np.float32(expected))
    assert found["cost"][len(jobs), 0] == pytest.approx(cost(student).macs / 1e9)


def test_pretraining_observations_need_one_evaluation_a_teacher() -> None:
    jobs, _ = measured()
    evaluations = AnalyticEvaluator().evaluate(jobs)
    networks = [job.network for job in jobs]
    for bad in ((networks, evaluations, 5), (networks[:2], evaluations, 60), ([], [], 10)):
        with pytest.raises(ValueError, match="count must be at least the number of evaluations"):
            diverse_observations(*bad)
