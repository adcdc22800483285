"""The benchmarks run and say what they should; the published loop is the same mathematics; counts are the modules'."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import os
import sys
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import plain_attacks, published, recipes, training, training_steps
from benchmarks.contender import Contender
from benchmarks.cost_model import Prices, fit_prices, random_students
from benchmarks.env import choose, digits_tasks
from benchmarks.stored_steps import steps_per_second
from benchmarks.timing import Stopwatch, interleaved, spread
from benchmarks.training_steps import NETWORKS, forward_equivalents, gflop, random_data, staged_network
from benchmarks.workload import workload
from rcnas_env.architecture import NetworkSpec, StageSpec, StemSpec, named_network
from rcnas_env.attacks import attack_entry, attack_guard, run_attack
from rcnas_env.cost import cost, stage_costs
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.store import FolderStore
from rcnas_env.networks import build
from rcnas_env.networks.convolution import Convolution
from rcnas_env.training.compilation import OPTIONS
from rcnas_env.training.fit import Trainer
from rcnas_env.training.recipe import Recipe
from tests import tiny
from tests.trained_digits import EPS, digits, trained_digits

MIXED = NetworkSpec(
    (StageSpec(2, 16, False, False), StageSpec(1, 16, True, True), StageSpec(2, 24, True, True)),
    StemSpec(8, 2),
    (3, 13, 10),
    7,
)
TINY_RUNS: dict[str, str] = {
    "peak": "--seconds 0.001",
    "training": "--networks tiny --batch-size 8 --inner-steps 1 --pairs 2 --seconds 0 --no-own-processes",
    "attacks": "--network WRN-10-1 --epochs 1 --inner-steps 1 --images 10 --iterations 1 --square-queries 2 "
    "--no-own-processes",
    "env": "--teacher WRN-10-1 --epochs 1 --inner-steps 1 --steps 1 --envs 1 --workers 0 --compared 1 --imports 1 "
    "--stored-seconds 0 --no-own-processes",
    "search": "--teacher WRN-10-1 --evaluations 1 --workers 0 --inner-steps 1 --attack fgsm --actions 20 --pairs 1",
    "cost_model": "--teacher WRN-10-1 --calibrating 3 --held-out 2 --repeats 1 --epochs 1 --inner-steps 1 --images 65 "
    "--many-steps 2 --batch-size 32",
    "memory": "--network WRN-10-1 --batch-size 2 --attack pgd-1 --no-own-processes",
    "tabular_steps": "--batches 4 32 --seconds 0 --repeats 2",
}


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(training_steps.NETWORKS, "tiny", tiny.STUDENT)


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, *extra: str) -> str:
    monkeypatch.setattr(sys, "argv", [name, *TINY_RUNS[name].split(), *extra])
    import_module(f"benchmarks.{name}").main()
    return capsys.readouterr().out


def leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for key, entry in value.items() for leaf in leaves(entry, f"{path}/{key}")]
    if isinstance(value, list):
        return [leaf for entry in value for leaf in leaves(entry, path)]
    return [(path, value)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "env" else []) for name in TINY_RUNS]
)
def test_every_benchmark_runs_and_shows_its_figures_with_their_origin(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evidence = json.loads(run(monkeypatch, capsys, name, "--json"))
    assert {"commit", "versions", "hardware", "config", "summary"} <= set(evidence)
    figures = leaves(evidence["summary"])
    measured = [
        (path, value)
        for path, value in figures
        if path.rpartition("/")[2].startswith(("ratio", "seconds", "ms", "gflops", "students_per", "speed_up"))
        or path.endswith(("_seconds", "_per_second", "_ms", "_gib"))
    ]
    assert measured and all(value > 0 for _, value in measured), measured
    assert all(np.isfinite(value) for _, value in figures if isinstance(value, float))


def test_the_ladder_measures_every_rung(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(monkeypatch, capsys, "training", "--ladder", "--precision", "fp32")
    rungs = [line.partition(":")[0] for line in text.splitlines()]
    assert len(rungs) == len(set(rungs)) == 4 and all("ratio" in line for line in text.splitlines())


def test_compiling_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(OPTIONS, "inductor", {"backend": "eager"})
    environment = dict(os.environ)
    evidence = json.loads(run(monkeypatch, capsys, "training", "--compiled", "--json"))
    assert list(evidence["summary"]) == ["inductor", "tiny, inductor"]
    figures = evidence["summary"]["tiny, inductor"]
    assert figures["compile_seconds"] > figures["ms"] / 1e3 and figures["plain_ms"] > 0 and figures["pairs"] == 2
    assert os.environ == environment


def test_training_refuses_a_network_that_it_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"networks must be .*WRN-16-2 at 8x8.*got 'WRN-16-3'"):
        training.measure(training.Training(networks=("WRN-16-3",)))


SPECS = {"basic": tiny.network(), "robust": tiny.network(16, robust=True), "mixed": MIXED}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_published_step_and_ours_lead_to_the_same_weights(
    spec: NetworkSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(folded=False, gradient_clip=1e9, inner_steps=3, learning_rate=0.05)
    ours = tiny.built(spec).double()
    theirs = published.plain_network(ours)
    clean = copy.deepcopy(theirs)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    data = random_data(spec, 12)
    images, labels = data.images().double(), data.labels
    trainer = Trainer(ours.train(), recipe, 0.1, tiny.generator())
    adversarial = trainer.perturb(images, labels)
    monkeypatch.setattr(trainer, "perturb", lambda images, labels: adversarial)
    loss = trainer.step(images, labels)

    found = published.adversarial_images(theirs.eval(), images, 0.1, recipe, tiny.generator())
    # a gradient that vanishes has the sign that rounding gives it: some pixels part, and go on from there
    assert ((found - adversarial).abs() < 1e-6).double().mean() > 0.9
    monkeypatch.setattr(published, "adversarial_images", lambda *arguments: adversarial)
    optimizer = published.make_optimizer(theirs, recipe)
    published_loss = published.step(theirs, optimizer, images, labels, 0.1, recipe, tiny.generator())
    torch.testing.assert_close(published_loss, loss.to(published_loss), rtol=1e-5, atol=1e-6)
    clean.train()(images)
    after, third = theirs.state_dict(), clean.state_dict()
    for name, value in ours.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert (int(value), int(after[name])) == (2, 3)
        elif "running" in name:  # the third forward pass moves them once more: m ← 0.9 m + s, s the clean batch's share
            moved = 0.9 * value + (third[name] - 0.9 * before[name])
            torch.testing.assert_close(after[name], moved, rtol=1e-5, atol=1e-6)
        else:
            assert not torch.equal(value, before[name]), name
            torch.testing.assert_close(after[name], value, rtol=1e-5, atol=1e-6)


def test_the_plain_network_is_the_same_map_without_our_convolutions() -> None:
    network = tiny.built(tiny.network(16, robust=True)).eval()
    plain = published.plain_network(network)
    assert any(isinstance(module, Convolution) for module in network.modules())
    assert not any(isinstance(module, Convolution) for module in plain.modules())
    torch.testing.assert_close(plain(tiny.images()), network(tiny.images()), rtol=1e-4, atol=1e-5)


def test_the_published_loader_gives_every_image_once_as_a_float() -> None:
    data = random_data(tiny.STUDENT, 33)
    state = torch.random.get_rng_state()
    batches = list(published.make_loader(data, 16, tiny.generator()))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [len(labels) for _, labels in batches] == [16, 16]  # the last, of one image, is left out
    expected = {tuple(image.flatten().tolist()) for image in data.images()}
    seen = [tuple(image.flatten().tolist()) for images, _ in batches for image in images]
    assert len(set(seen)) == 32 and set(seen) <= expected


def test_the_published_loader_feeds_a_gpu_as_the_published_code_does() -> None:
    loader = published.make_loader(random_data(tiny.STUDENT, 32), 16, tiny.generator(), "cuda")
    assert (loader.num_workers, loader.pin_memory) == (1, True)


def test_a_published_training_learns() -> None:
    from rcnas_env.data import load_splits

    splits = load_splits("digits", 256)
    model = published.plain_network(build(tiny.STUDENT, tiny.generator()))
    recipe = Recipe(epochs=2, batch_size=16, inner_steps=1)
    published.train(model, splits.train.subset(torch.arange(400)), recipe, 0.05, seed=0)
    assert not model.training
    accuracy = (model(splits.eval.images()).argmax(1) == splits.eval.labels).float().mean()
    assert accuracy > 0.5


@pytest.mark.parametrize("name", ["clean", "fgsm", "pgd-5", "cw-5"])
def test_plain_attacks_are_those_of_the_catalogue(name: str) -> None:
    model = trained_digits()
    images, labels = (part[:100] for part in digits()[2:])
    state = torch.random.get_rng_state()
    found = plain_attacks.perturb(name, model, images, labels, EPS)
    assert torch.equal(torch.random.get_rng_state(), state)
    expected = run_attack(attack_entry(name).make(EPS, 10), model, images, labels, seed=0, batch_size=100).adversarial
    if name in ("clean", "fgsm"):
        torch.testing.assert_close(found, expected)
    assert float((found - images).abs().max()) <= EPS + 1e-6 and 0 <= float(found.min()) <= float(found.max()) <= 1
    clean, broken, ours = ((model(given).argmax(1) != labels).float().mean() for given in (images, found, expected))
    assert abs(broken - ours) <= 0.05 and (broken > clean + 0.05) == (name != "clean")


def test_plain_attacks_refuse_a_name_that_they_do_not_have() -> None:
    with pytest.raises(ValueError, match="name must be clean, fgsm, pgd-K or cw-K, got 'square'"):
        plain_attacks.perturb("square", tiny.built(), tiny.images(), tiny.labels(), 0.1)


def test_plain_autoattack_makes_the_steps_that_it_is_asked_for() -> None:
    model = tiny.built().eval()
    with attack_guard(model, 0, "cpu"):
        parts = plain_attacks._components(model, 0.1, 6, 7, 11, 3)
    assert [parts[name].steps for name in ("apgd-ce", "apgd-t", "fab-t")] == [7, 7, 7]
    assert [parts[name].n_target_classes for name in ("apgd-t", "fab-t")] == [5, 5]
    assert parts["square"].n_queries == 11 and parts["square"].rescale_schedule is False


@pytest.mark.parametrize("spec", [MIXED, *NETWORKS.values()], ids=["mixed", *NETWORKS])
def test_the_workload_in_closed_form_is_what_the_modules_do(spec: NetworkSpec) -> None:
    elements, calls = 0, 0

    def count(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal elements, calls
        elements, calls = elements + output[0].numel(), calls + 1

    network = build(spec, device="meta").eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            module.register_forward_hook(count)
    network(torch.empty(1, *spec.input, device="meta"))
    assert (workload(spec).elements, workload(spec).operations) == (elements, calls)
    assert workload(spec).macs == cost(spec).macs


def test_taps_in_the_padding_are_not_carried_out() -> None:
    spec = staged_network("WRN-10-1", (1, 8, 8))  # one block a stage, on maps of 8×8, 4×4 and 2×2
    saved = 64 * 64 * 4 * (9 - 4)  # only conv2 of the last block sees a map of 2×2
    assert (workload(spec).plain_macs, workload(spec).robust_macs) == (cost(spec).macs - saved, 0)
    assert workload(MIXED).robust_macs == sum(
        part.macs for part, stage in zip(stage_costs(MIXED), MIXED.stages, strict=True) if stage.robust
    )


def test_prices_are_found_again_from_the_times_that_they_make() -> None:
    rng = np.random.default_rng(0)
    students = random_students(named_network("WRN-16-2", (1, 8, 8), 10), 12, rng)
    assert len(set(students)) == 12
    true = Prices(np.array([0.02, 0.03, 0.001, 0.3, 0.004]), np.array([0.05, 0.06, 0.0, 0.7, 0.002]))
    timed = [{steps: true.step(spec, 128, steps) for steps in (1, 6)} for spec in students]
    found = fit_prices(students, 128, timed)
    np.testing.assert_allclose(found.pair, true.pair, rtol=1e-6)
    np.testing.assert_allclose(found.rest, true.rest, rtol=1e-6, atol=1e-9)
    recipe = Recipe(batch_size=128, epochs=3, inner_steps=4)
    whole = 3 * (2 * true.step(students[0], 128, 4) + true.step(students[0], 44, 4))
    assert true.training(students[0], recipe, 300) == pytest.approx(whole)
    assert true.training(students[0], recipe, 257) == pytest.approx(3 * 2 * true.step(students[0], 128, 4))


def test_forward_passes_are_counted_as_issue_and_paper_do() -> None:
    assert (forward_equivalents(10), published.forward_equivalents(10)) == (27, 39)
    spec = NETWORKS["WRN-16-2 at 8x8"]
    assert gflop(spec, 128, 27) == pytest.approx(2 * 27 * 128 * cost(spec).macs / 1e9)


def test_pairs_come_in_turn() -> None:
    order: list[str] = []
    pairs = interleaved(lambda: order.append("a") or 1, lambda: order.append("b") or 2, pairs=3)
    assert pairs == [(1, 2)] * 3 and "".join(order) == "abbaab"
    assert spread([3.0, 1.0, 2.0], "ratio") == {"ratio": 2.0, "ratio_least": 1.0, "ratio_most": 3.0}


def test_a_stopwatch_counts_nothing_twice_and_leaves_functions_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    import benchmarks.timing as timing

    clock = iter([0.0, 1.0, 4.0, 10.0])  # the outer part from 0 to 10, the inner from 1 to 4
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    watch, trainer = Stopwatch(), Owner()
    with watch.watch(Owner, "work", "inner"), watch.part("outer"):
        assert trainer.work(2) == 4
    assert watch.seconds == {"inner": 3.0, "outer": 7.0}
    with watch.watch(trainer, "work", "inner"):
        assert "work" in vars(trainer)
    assert not vars(trainer) and Owner.work is WORK


class Owner:
    def work(self, value: int) -> int:
        return 2 * value


WORK = Owner.work


def test_a_contender_works_in_a_process_of_its_own() -> None:
    with Contender() as process:
        assert process.run(functools.partial, os.getpid) not in (os.getpid(), None)


def test_a_contender_prepares_once() -> None:
    with Contender(own_process=False) as process:
        process.prepare(counter, 3)
        assert [process.run(counter, start) for start in (3, 5, 3)] == [3, 5, 4]
    with Contender(own_process=False) as process:
        assert process.run(counter, 3) == 3  # it forgets what it prepared


def counter(start: int) -> Any:
    numbers = itertools.count(start)
    return lambda: next(numbers)


def test_steps_from_a_folder_compute_nothing(tmp_path: Any) -> None:
    store = FolderStore(tmp_path)
    assert steps_per_second(digits_tasks("WRN-10-1")[0], store, 0.0) > 0
    assert list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("*.safetensors"))


def test_compared_jobs_are_spread_over_their_cost() -> None:
    jobs = [Job(tiny.network(planes), tiny.task(), tiny.RECIPE) for planes in (40, 8, 32, 16, 24)]
    assert [job.network.stages[0].planes for job in choose(jobs, 2)] == [16, 32]
    assert len(choose(jobs, 9)) == 5


def test_recipes_of_one_seed_are_json_all_the_same() -> None:
    values = {"seconds": [[1.0], [2.0], [4.0]], "robust": [[0.1], [0.3], [0.2]]}
    summary = recipes.summarise({"paper": values, "other": values})
    assert json.loads(json.dumps(summary, allow_nan=False))["other"]["tau_between_seeds"] is None
    assert summary["other"]["seconds_ratio"] == 1 and summary["other"]["tau_with_first"] == pytest.approx(1)
