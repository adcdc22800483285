"""The code of docs/extending.md, run as it stands there; and the registry of networks that it uses."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rcnas_env.architecture
import rcnas_env.attacks.catalogue
import rcnas_env.data.dataset
import rcnas_env.evaluation.evaluator
import rcnas_env.presets
import rcnas_env.training.method
from rcnas_env.architecture import (
    NetworkSpec,
    StageSpec,
    known_networks,
    named_network,
    read_network,
    register_network,
)
from rcnas_env.attacks import attack_entry, known_attacks, run_attack
from rcnas_env.cost import cost
from rcnas_env.data import known_datasets, load_splits
from rcnas_env.evaluation.job import Job
from rcnas_env.presets import known_presets
from rcnas_env.registry import UnknownNameError
from rcnas_env.task import Task
from rcnas_env.training.method import known_methods, method_entry
from tests import tiny

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
PARTS: dict[str, tuple[Callable[[], tuple[str, ...]], str]] = {
    "A data set": (known_datasets, "digits-0-4"),
    "An attack": (known_attacks, "mi-fgsm"),
    "A teacher": (known_networks, "slim"),
    "A training method": (known_methods, "alp"),
}
REGISTRIES = (
    rcnas_env.architecture._REGISTERED,
    rcnas_env.attacks.catalogue._fixed,
    rcnas_env.data.dataset._DATASETS,
    rcnas_env.evaluation.evaluator._ENGINES,
    rcnas_env.presets._PRESETS,
    rcnas_env.training.method._METHODS,
)


@pytest.fixture(autouse=True)
def registries_are_left_as_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))  # type: ignore[attr-defined]
    known = rcnas_env.attacks.catalogue._known
    monkeypatch.setattr(rcnas_env.attacks.catalogue, "_known", list(known))


def run(*headings: str) -> dict[str, Any]:
    """The names that the blocks under the headings define, run in order in one namespace."""
    namespace: dict[str, Any] = {"__name__": "extending"}
    for heading in headings:
        exec(compile(BLOCKS[heading], f"docs/extending.md, {heading}", "exec"), namespace)
    return namespace


def test_the_page_has_one_block_a_part_and_the_four_are_under_20_lines() -> None:
    assert [*BLOCKS] == [*PARTS, "All of them together", "A preset", "An engine"]
    assert PAGE.count("```python") == len(BLOCKS)
    assert {heading: n for heading in PARTS if (n := len(BLOCKS[heading].splitlines())) >= 20} == {}
    assert max(len(line) for block in BLOCKS.values() for line in block.splitlines()) <= 120


@pytest.mark.parametrize("heading", PARTS)
def test_each_block_alone_makes_its_part_known_by_name(heading: str) -> None:
    known, name = PARTS[heading]
    before = known()
    run(heading)
    assert known() == (*before, name)
    with pytest.raises(ValueError, match=f"{name}.* is registered already"):
        run(heading)


def test_the_data_set_is_split_like_the_others() -> None:
    run("A data set")
    splits = load_splits("digits-0-4", n_eval=30)
    assert [len(part) for part in (splits.train, splits.eval, splits.test)] == [670, 30, 201]
    assert splits.eval.labels.bincount().tolist() == [6] * 5
    assert splits.train.images().max() == 1.0


def test_the_attack_moves_every_pixel_to_the_ball_s_corner_on_a_linear_model() -> None:
    run("An attack")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(10, 64, generator=tiny.generator()) / 100)  # type: ignore[union-attr]
    images, labels = 0.2 + 0.6 * tiny.images(), tiny.labels()
    found = run_attack(attack_entry("mi-fgsm").make(0.1, 10), model, images, labels, seed=0, batch_size=4)
    # ∂CE/∂x = Wᵀ(p − e_y); with weights this small p hardly moves, and the sign is that at the image itself.
    inputs = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(inputs), labels, reduction="sum"), inputs)
    certain = gradient.abs() > 1e-4
    assert certain.float().mean() > 0.9
    torch.testing.assert_close(found.adversarial[certain], (images + 0.1 * gradient.sign())[certain])


def test_the_training_method_s_loss_is_the_pairing_written_out() -> None:
    run("A training method")
    clean, perturbed = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 3.0]])
    loss = method_entry("alp").loss(clean, perturbed, torch.tensor([0]), 0.5)
    errors = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2
    assert loss.item() == pytest.approx(errors + 0.5 * (1 + 9) / 2)


def test_the_teacher_can_be_costed_read_and_searched_for() -> None:
    run("A teacher")
    spec = named_network("slim", (1, 8, 8), 5)
    assert isinstance(spec, NetworkSpec) and [stage.depth for stage in spec.stages] == [2, 1, 1]
    assert spec == read_network("slim", (1, 8, 8), 5)
    assert Task("digits", "fgsm", "slim", 1e6).teacher == spec.with_data((1, 8, 8), 10)
    assert 0 < cost(spec).macs < cost(named_network("WRN-10-2", (1, 8, 8), 5)).macs
    with pytest.raises(UnknownNameError, match="known: .*slim.*Did you mean 'slim'"):
        named_network("slym")


def test_a_job_is_evaluated_on_all_four_together(capsys: pytest.CaptureFixture[str]) -> None:
    namespace = run(*PARTS, "All of them together")
    evaluation, job = namespace["evaluation"], Job(namespace["task"].teacher, namespace["task"], namespace["recipe"])
    assert evaluation.key == job.key and evaluation.images == len(evaluation.lips) == 30
    assert 0 <= evaluation.robust_accuracy <= evaluation.clean_accuracy <= 1
    assert not evaluation.diverged and min(evaluation.lips) > 0  # every image was perturbed
    assert capsys.readouterr().out.startswith(f"clean {evaluation.clean_accuracy:.0%}, under mi-fgsm ")
    # Another method and another attack give something else: these are not a stand-in for the registered ones.
    fgsm = Task("digits-0-4", "fgsm", "slim", 200_000)
    others = [Job(job.network, job.task, job.recipe.but(method="sat")), Job(job.network, fgsm, job.recipe)]
    for other in namespace["engine"].evaluate(others):
        assert other.lips != evaluation.lips


def test_the_preset_and_the_engine_serve_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    namespace = run(*PARTS, "A preset", "An engine")
    assert "slim-digits" in known_presets()
    assert re.fullmatch(r"asked for 1: (mi-fgsm|pgd-20)\n", capsys.readouterr().out)
    observation, env = namespace["observation"], namespace["env"]
    assert observation["stages"].tolist() == [[8, 2, 0, 0], [16, 1, 1, 0], [16, 1, 1, 1]]
    assert observation["lips"].shape == (30,) and env.observation_space.contains(observation)
    env.close()


def test_worker_processes_know_what_a_script_registers_at_its_top_level(tmp_path: Path) -> None:
    together = BLOCKS["All of them together"].replace("MemoryStore())", "MemoryStore(), workers=1)")
    assert "workers=1" in together
    guarded = "\n".join(f"    {line}" for line in [*together.splitlines(), "engine.close()"])
    script = tmp_path / "mine.py"
    parts = "\n".join(BLOCKS[heading] for heading in PARTS)
    script.write_text(f'{parts}\nif __name__ == "__main__":\n{guarded}\n', encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script)]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False, timeout=240
    )
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"clean \d+%, under mi-fgsm \d+%\n", result.stdout)


@pytest.mark.parametrize("name", ["WRN-28-10", "WRN-29-10", "WRN-d-w", "RobustResNet-A1", "RACL-7@104", "RACL-0@4"])
def test_a_built_in_network_s_name_is_taken(name: str) -> None:
    with pytest.raises(ValueError, match=f"network '{name}' is registered already"):
        register_network(name, lambda input, classes: NetworkSpec((StageSpec(1, 8),), input=input, classes=classes))


@pytest.mark.parametrize("name", ["", "slim.json", None, 3])
def test_a_network_s_name_is_a_string_that_is_no_file_s(name: Any) -> None:
    with pytest.raises(ValueError, match="network name must be .*, got "):
        register_network(name, lambda input, classes: NetworkSpec((StageSpec(1, 8),), input=input, classes=classes))


@pytest.mark.parametrize(
    ("factory", "problem"),
    [
        (lambda input, classes: None, "must be made a NetworkSpec or a CellNetworkSpec, got None"),
        (lambda input, classes: NetworkSpec((StageSpec(1, 8),)), r"for input \(1, 8, 8\) and 7 classes, got \(3, 32"),
        (lambda input, classes: NetworkSpec((StageSpec(1, 8),), input=input), "and 7 classes, got .* and 10"),
    ],
)
def test_a_factory_must_make_what_it_is_asked_for(factory: Callable[..., Any], problem: str) -> None:
    register_network("odd", factory)
    with pytest.raises(ValueError, match=f"network 'odd' must be made .*{problem}|network 'odd' {problem}"):
        named_network("odd", (1, 8, 8), 7)


def test_a_registered_network_may_be_made_of_cells() -> None:
    register_network("my-cells", lambda input, classes: named_network("RACL-1@4", input, classes))
    assert known_networks()[-1] == "my-cells"
    assert named_network("my-cells", (1, 8, 8), 4) == named_network("RACL-1@4", (1, 8, 8), 4)
    with pytest.raises(ValueError, match=r"task\.teacher must have 3 stages, got a network of 5 cells"):
        Task("digits", "fgsm", "my-cells", 1e6)  # type: ignore[arg-type]
