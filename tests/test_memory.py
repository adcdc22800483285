"""Memory that runs out: real errors where a CPU gives them, and networks that take no more than so many images."""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from rcnas_env.architecture import NetworkSpec
from rcnas_env.attacks import attack_entry, run_attack
from rcnas_env.data import ImageSet, load_splits
from rcnas_env.evaluation import work
from rcnas_env.evaluation.faults import FaultWarning
from rcnas_env.evaluation.trained import TrainedEvaluator
from rcnas_env.networks.frozen import FrozenNetwork, freeze
from rcnas_env.networks.residual_network import ResidualNetwork
from rcnas_env.training.fit import Trainer, fit
from rcnas_env.training.memory import MemoryWarning, MicroBatch, NoRoomError, is_out_of_memory
from rcnas_env.training.recipe import Recipe
from tests import tiny

ROOT = Path(__file__).resolve().parent.parent
RECIPE = Recipe(epochs=1, batch_size=64, inner_steps=2, gradient_clip=1e9)


class Plain(nn.Module):
    """A network without batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
        draws = tiny.generator(7)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-0.3, 0.3, generator=draws)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


@contextlib.contextmanager
def room_for(images: int) -> Iterator[list[int]]:
    """No network here takes more than so many images at once; yields the numbers that went through."""
    passed: list[int] = []

    def check(module: nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(module, ResidualNetwork | FrozenNetwork | Plain):
            if len(given[0]) > images:
                raise torch.OutOfMemoryError(f"no room for {len(given[0])} images")
            passed.append(len(given[0]))

    hook = register_module_forward_pre_hook(check)
    try:
        yield passed
    finally:
        hook.remove()


def trainer(model: nn.Module, extra_loss: Any = None, **changes: Any) -> Trainer:
    """A trainer whose draws are always the same."""
    return Trainer(model.train(), RECIPE.but(**changes), 0.1, tiny.generator(), extra_loss)


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])  # type: ignore[union-attr]


# --- a step -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["trades", "sat", "mart", "clean"])
def test_without_batch_norm_the_gradients_are_those_of_the_whole_batch(method: str) -> None:
    whole, divided = (trainer(Plain(), method=method, folded=False) for _ in range(2))
    images, labels = tiny.images(13), tiny.labels(13)
    loss = whole.step(images, labels)
    with room_for(4) as passed, pytest.warns(MemoryWarning) as warned:
        divided_loss = divided.step(images, labels)
    assert str(warned[0].message) == "out of memory with 13 images at once, going on with 6: no room for 13 images"
    assert divided.micro_batch.size == 3 and set(passed) <= {1, 2, 3}
    torch.testing.assert_close(divided_loss, loss, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradients(divided.model), gradients(whole.model), rtol=1e-4, atol=1e-6)
    assert torch.equal(divided.generator.get_state(), whole.generator.get_state())  # the same draws, in number too


class Counting:
    """An extra loss that changes with each call, as HARP's does."""

    def __init__(self, model: nn.Module) -> None:
        self.weight, self.calls = model.get_parameter("classifier.weight"), 0

    def __call__(self) -> Tensor:
        self.calls += 1
        return 0.01 * self.calls * self.weight.square().sum()


@pytest.mark.parametrize("folded", [False, True])
def test_an_attempt_that_failed_leaves_no_trace(folded: bool) -> None:
    disturbed, undisturbed = (tiny.built() for _ in range(2))
    losses = []
    for model in (disturbed, undisturbed):
        stepper = trainer(model, Counting(model), folded=folded)
        if model is undisturbed:
            stepper.micro_batch.size = 5
            losses.append([stepper.step(tiny.images(20, seed), tiny.labels(20, seed)) for seed in (1, 2)])
        else:
            with room_for(7), pytest.warns(MemoryWarning):
                losses.append([stepper.step(tiny.images(20, seed), tiny.labels(20, seed)) for seed in (1, 2)])
        assert stepper.micro_batch.size == 5
        assert stepper.extra_loss.calls == 2  # type: ignore[union-attr]
    assert losses[0] == losses[1]
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(disturbed.state_dict()[name], value), name
    # batch norm's part: four micro-batches a step, clean and perturbed each
    assert disturbed.get_submodule("bn").num_batches_tracked.item() == 2 * 4 * 2


def test_micro_batches_are_even_and_never_of_one_image() -> None:
    for least in (1, 2):
        batch = MicroBatch(least)
        for count in range(least, 40):
            assert batch.shares(count) == [count]
        for batch.size in range(least, 20):
            for count in range(2, 40):
                shares = batch.shares(count)
                assert sum(shares) == count and max(shares) - min(shares) <= 1 and min(shares) >= min(least, count)
                assert max(shares) <= batch.size or (least == batch.size == 2 and max(shares) == 3)


# --- a training -------------------------------------------------------------------------------------------------------


def digits(count: int) -> ImageSet:
    return load_splits("digits", 64).train.subset(torch.arange(count))


def test_a_training_says_how_far_its_batches_were_divided() -> None:
    assert fit(tiny.built(), digits(70), RECIPE, 0.1, seed=0).micro_batch is None
    with room_for(20) as passed, pytest.warns(MemoryWarning) as warned:
        report = fit(tiny.built(), digits(70), RECIPE, 0.1, seed=0)
    assert report.micro_batch == 16 and not report.diverged
    assert len(warned) == 2  # 64 to 32 to 16, and that stays
    assert max(passed) == 16 and min(passed) == 6  # the last batch


def test_a_training_ends_where_two_images_do_not_fit() -> None:
    with room_for(1), pytest.warns(MemoryWarning), pytest.raises(NoRoomError, match="not suffice for 2 images at once"):
        fit(tiny.built(), digits(64), RECIPE, 0.1, seed=0)


SCRIPT = """
import json, resource, sys, warnings
import torch
from torch import nn
from rcnas_env.data import load_splits
from rcnas_env.training.fit import fit
from rcnas_env.training.recipe import Recipe

class Wide(nn.Module):
    "Without batch norm; feature maps of 75 kB an image, of torch's own allocator."
    def __init__(self):
        super().__init__()
        self.scale, self.out = nn.Parameter(torch.linspace(0.1, 1.0, 300)), nn.Linear(64, 10)
        nn.init.zeros_(self.out.weight), nn.init.zeros_(self.out.bias)
    def forward(self, images):
        return self.out(torch.relu(images.flatten(1)[:, :, None] * self.scale).mean(dim=2))

def size():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

def train(count):
    data = load_splits("digits", 64).train.subset(torch.arange(count))
    report = fit(Wide(), data, Recipe(epochs=2, batch_size=512, inner_steps=1, folded=False), 0.1, seed=0)
    return {"losses": report.losses, "micro_batch": report.micro_batch}

train(16)  # all that is loaded or started late is there now
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (size() + 100 * 2**20, limits[1]))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    limited = train(512)
resource.setrlimit(resource.RLIMIT_AS, limits)
print(json.dumps([limited, train(512), [str(each.message) for each in caught]]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
def test_memory_that_really_runs_out() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    limited, free, messages = json.loads(run.stdout)
    assert free["micro_batch"] is None and 16 <= limited["micro_batch"] <= 256
    assert limited["losses"] == pytest.approx(free["losses"], rel=1e-4)
    assert messages and all("DefaultCPUAllocator" in message for message in messages)


def test_only_want_of_memory_is_taken_for_it() -> None:
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError("…"))
    assert not is_out_of_memory(RuntimeError("out of memory, says somebody")) and not is_out_of_memory(None)


# --- attacks and the engine -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("attack", ["pgd-3", "cw-3", "naa"])
def test_a_divided_attack_is_the_same_attack(attack: str, folded: bool) -> None:
    model, images, micro_batch = tiny.built().eval(), tiny.images(11), MicroBatch()
    labels = model(images).argmax(dim=1)
    attacked = freeze(model) if folded else model
    micro_batch.size = 4
    runs = []
    for each in (attacked, micro_batch.divide(attacked)):
        runs.append(run_attack(attack_entry(attack).make(0.1, 10), each, images, labels, seed=0, batch_size=11))
    torch.testing.assert_close(runs[1].adversarial, runs[0].adversarial, rtol=0, atol=1e-5)
    assert torch.equal(runs[0].robust, runs[1].robust)
    assert (runs[0].adversarial - images).abs().max() > 0.05


def test_the_engine_goes_on_with_fewer_images_and_says_so() -> None:
    job = tiny.job(attack="pgd-2")
    training = work.train(job)
    expected = work.measure(job, *training)[0]
    assert "attack_micro_batch" not in expected.provenance and training[0]["micro_batch"] is None
    with room_for(10), pytest.warns(MemoryWarning):
        found = work.measure(job, *training)[0]
    assert found.provenance == {**expected.provenance, "attack_micro_batch": 7}  # 30 to 15 to 7
    assert (found.robust, found.clean_accuracy) == (expected.robust, expected.clean_accuracy)
    assert found.lips == pytest.approx(expected.lips, rel=1e-2, abs=1e-3)
    with room_for(40), pytest.warns(MemoryWarning):
        divided = TrainedEvaluator(tiny.CountingStore(), device="cpu").evaluate([job])[0]
    assert divided.provenance["training_micro_batch"] == 32 and not divided.diverged


@pytest.mark.parametrize(("room", "trained"), [(1, False), (0, True)])
def test_what_never_fits_is_flagged_and_not_saved(room: int, trained: bool) -> None:
    job, store = tiny.job(), tiny.CountingStore()
    if trained:
        store.save_training(job.training_key, *work.train(job))
    engine = TrainedEvaluator(store, device="cpu")
    failure = pytest.warns(FaultWarning, match="failed and counts as diverged: out of memory: memory does not suffice")
    with room_for(room), pytest.warns(MemoryWarning), failure:
        found = engine.evaluate([job])[0]
    assert found.diverged and found.robust == (False,) * 30 and found.robust_accuracy == 0.0
    assert found.provenance["failed"].startswith("out of memory: memory does not suffice for")
    assert store.evaluated == [] and store.trained == [job.training_key] * trained
    assert engine.evaluate([job]) == [found]  # by this engine no more,
    assert not TrainedEvaluator(store, device="cpu").evaluate([job])[0].diverged  # but by another one


def test_what_did_not_fit_is_let_go_of_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the next job trains, nothing holds the network and the feature maps of the one before."""
    networks, alive = list[weakref.ref[nn.Module]](), list[bool]()
    real = work.build

    def build(spec: NetworkSpec, *arguments: Any) -> nn.Module:
        alive.extend(network() is not None for network in networks)
        network = real(spec, *arguments)
        networks.append(weakref.ref(network))
        return network

    monkeypatch.setattr(work, "build", build)
    jobs = [tiny.job(), tiny.job(tiny.TEACHER)]
    gc.collect()
    gc.disable()
    try:
        with room_for(1), pytest.warns(MemoryWarning), pytest.warns(FaultWarning):
            found = TrainedEvaluator(tiny.CountingStore(), device="cpu").evaluate(jobs)
    finally:
        gc.enable()
    assert [each.diverged for each in found] == [True, True] and alive == [False]
