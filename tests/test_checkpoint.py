"""Checkpoints: nothing lost, nothing executed, and damage told by what it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import agents.checkpoint
from agents.checkpoint import CheckpointError, has_checkpoint, load_checkpoint, save_checkpoint
from agents.state_encoder import StateEncoder
from agents.vpg import VPG, VPGConfig
from tests.landscape import N_EVAL, environments, task

SETTINGS = VPGConfig(learning_rate=0.004, update="step", baseline="running", entropy_bonus=0.01, initial_std=0.5)


def envs() -> Any:
    return environments(3, [task("fgsm"), task("cw-40")], steps=4)


def trained(iterations: int = 2, seed: int = 5) -> VPG:
    encoder = StateEncoder(N_EVAL, hidden=4, state=6, seed=1)
    agent = VPG(encoder, SETTINGS, seed, name="tested")
    agent.learn(envs(), iterations)
    return agent


def assert_equal_agents(ours: VPG, theirs: VPG) -> None:
    for module in ("encoder", "policy"):
        mine, yours = getattr(ours, module).state_dict(), getattr(theirs, module).state_dict()
        assert list(mine) == list(yours)
        assert all(torch.equal(mine[name], yours[name]) for name in mine)
    mine, yours = ours.optimizer.state_dict(), theirs.optimizer.state_dict()
    assert mine["param_groups"] == yours["param_groups"]
    assert mine["state"].keys() == yours["state"].keys()
    for index, entries in mine["state"].items():
        assert all(torch.equal(entries[name], yours["state"][index][name]) for name in entries)
    for name in ("iteration", "steps_taken", "reward_sum", "reward_count", "seed", "name", "config"):
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize("iterations", [0, 2])
def test_a_checkpoint_comes_back_whole(tmp_path: Path, iterations: int) -> None:
    agent, extra = trained(iterations), {"rewards": [0.25, -1.0], "tried": 24}
    save_checkpoint(agent, tmp_path / "deep" / "agent", extra)
    found, found_extra = load_checkpoint(tmp_path / "deep" / "agent")
    assert_equal_agents(agent, found)
    assert found_extra == extra
    assert not any(parameter.requires_grad for parameter in found.encoder.parameters())


def test_going_on_from_a_checkpoint_is_as_if_never_interrupted(tmp_path: Path) -> None:
    whole = trained(0)
    reports = whole.learn(envs(), 5)
    save_checkpoint(trained(2), tmp_path / "agent")
    resumed, _ = load_checkpoint(tmp_path / "agent")
    assert resumed.learn(envs(), 3) == reports[2:]  # rewards, gradient norms and students, to the bit
    assert_equal_agents(whole, resumed)


def test_a_checkpoint_replaces_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    for iterations in (1, 2, 3):
        save_checkpoint(trained(iterations), tmp_path / "agent")
        assert load_checkpoint(tmp_path / "agent")[0].iteration == iterations
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]
    assert sorted(path.name for path in (tmp_path / "agent").iterdir()) == ["agent.json", "weights.safetensors"]


def test_a_neighbour_s_half_written_checkpoint_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".writing-agent-2@x").mkdir()
    (tmp_path / ".writing-agent@x").mkdir()
    save_checkpoint(trained(1), tmp_path / "agent")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".writing-agent-2@x", "agent"]


def test_nothing_is_pickled(tmp_path: Path) -> None:
    save_checkpoint(trained(), tmp_path / "agent")
    content = (tmp_path / "agent" / "weights.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    names = {name.split("/")[0] for name in header if name != "__metadata__"}
    assert names == {"encoder", "policy", "optimizer"}
    assert content[:2] != b"PK" and b"\x80\x04" not in content[:2]  # neither torch's zip nor a bare pickle
    json.loads((tmp_path / "agent" / "agent.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("moment", ["weights", "settings", "first rename", "second rename", "tidying"])
def test_a_kill_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Stopped at any moment, with no chance to tidy up, one of the two checkpoints is there, whole."""
    target = tmp_path / "agent"
    save_checkpoint(trained(1), target)
    renames = 0

    def die(*arguments: Any, **keywords: Any) -> None:
        raise Killed

    def rename(source: Any, to: Any) -> None:
        nonlocal renames
        renames += 1
        if moment == ("first rename", "second rename")[renames - 1]:
            die()
        Path(source).rename(to)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", rename)
        patch.setattr(shutil, "rmtree", die if moment == "tidying" else lambda *a, **k: None)
        if moment == "weights":
            patch.setattr(agents.checkpoint, "save_safetensors", die)
        if moment == "settings":
            patch.setattr(Path, "write_text", die)
        if moment == "tidying":  # the first tidying is before anything is written
            calls = iter([lambda: None, die, lambda: None])
            patch.setattr(shutil, "rmtree", lambda *a, **k: next(calls)())
        with pytest.raises(Killed):
            save_checkpoint(trained(2), target)
    assert has_checkpoint(target)
    found, _ = load_checkpoint(target)
    assert_equal_agents(found, trained(2 if moment == "tidying" else 1))
    found.learn(envs(), 1)
    save_checkpoint(found, target)
    assert load_checkpoint(target)[0].iteration == found.iteration
    assert target.exists() and not (tmp_path / ".replaced-agent").exists()


def test_a_failed_save_leaves_the_old_one_and_no_litter(tmp_path: Path) -> None:
    save_checkpoint(trained(1), tmp_path / "agent")
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(trained(2), tmp_path / "agent", {"reward": float("nan")})
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]
    assert load_checkpoint(tmp_path / "agent")[0].iteration == 1


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "agent.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(change(settings) or settings), encoding="utf-8")

    return damage


def reweighted(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "weights.safetensors")
        change(tensors)
        save_file(tensors, folder / "weights.safetensors")

    return damage


def truncated(name: str, length: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:length])

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, "No such file"),
    "no settings": (lambda folder: (folder / "agent.json").unlink(), "No such file.*agent.json"),
    "no weights": (lambda folder: (folder / "weights.safetensors").unlink(), "No such file.*weights.safetensors"),
    "cut settings": (truncated("agent.json", 40), "cannot be read: "),
    "cut weights": (truncated("weights.safetensors", 3_000), "damaged weights"),
    "cut header": (truncated("weights.safetensors", 20), "damaged weights"),
    "empty weights": (truncated("weights.safetensors", 0), "damaged weights"),
    "binary settings": (lambda folder: (folder / "agent.json").write_bytes(b"\xff\x00\x80"), "cannot be read: .*utf-8"),
    "deep settings": (lambda folder: (folder / "agent.json").write_text("[" * 100_000), "cannot be read: "),
    "a pickle": (lambda folder: torch.save({}, folder / "weights.safetensors"), "damaged weights"),
    "a list": (lambda folder: (folder / "agent.json").write_text("[1, 2]"), "format must be 3, got None"),
    "other format": (edited(lambda s: s.update(format=1)), "format must be 3, got 1"),
    "no format": (edited(lambda s: s.pop("format") and None), "format must be 3, got None"),
    "unknown field": (edited(lambda s: s.update(colour="red")), "unknown 'colour'"),
    "missing field": (edited(lambda s: s.pop("reward_sum") and None), "missing 'reward_sum'"),
    "unknown agent field": (edited(lambda s: s["agent"].update(colour="red")), "agent must .*unknown 'colour'"),
    "unknown setting": (edited(lambda s: s["agent"]["config"].update(momentum=1)), "config must .*unknown 'momentum'"),
    "missing setting": (edited(lambda s: s["agent"]["config"].pop("update") and None), "missing 'update'"),
    "bad setting": (edited(lambda s: s["agent"]["config"].update(update="epoch")), "vpg.update must be one of"),
    "mistyped setting": (edited(lambda s: s["agent"]["config"].update(hidden="many")), "vpg.hidden must be an integer"),
    "bad encoder": (edited(lambda s: s["agent"]["encoder"].update(n_eval=-3)), "does not hold an agent"),
    "unknown encoder": (edited(lambda s: s["agent"]["encoder"].update(layers=3)), "layers"),
    "other encoder": (edited(lambda s: s["agent"]["encoder"].update(n_eval=11)), "size mismatch"),
    "bad seed": (edited(lambda s: s["agent"].update(seed="x")), "seed must be an integer"),
    "bad iteration": (edited(lambda s: s.update(iteration="three")), "iteration must be an integer.*'three'"),
    "negative steps": (edited(lambda s: s.update(steps_taken=-1)), "steps_taken must be .*-1"),
    "bad sum": (edited(lambda s: s.update(reward_sum=None)), "reward_sum must be a finite number"),
    "bad extra": (edited(lambda s: s.update(extra="more")), "does not hold an agent"),
    "no agent": (edited(lambda s: s.update(agent=None)), "agent must be an object"),
    "missing weight": (reweighted(lambda t: t.pop("policy/trunk.0.bias")), "trunk.0.bias"),
    "foreign weight": (reweighted(lambda t: t.update({"critic/w": torch.ones(1)})), "critic/w"),
    "reshaped weight": (reweighted(lambda t: t.update({"policy/trunk.0.bias": torch.ones(2)})), "size mismatch"),
    "missing moment": (reweighted(lambda t: t.pop("optimizer/0/exp_avg")), "Adam's state of parameter 0"),
    "missing state": (reweighted(lambda t: [t.pop(n) for n in list(t) if n.startswith("optimizer/0/")]), "got 15"),
    "reshaped moment": (reweighted(lambda t: t.update({"optimizer/3/exp_avg": torch.ones(2)})), "parameter 3"),
    "odd state": (reweighted(lambda t: t.update({"optimizer/first/step": torch.ones(1)})), "does not hold an agent"),
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "agent"
    save_checkpoint(trained(), folder)
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_by_what_it_is(intact: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "agent"
    shutil.copytree(intact, folder)
    inflict, message = DAMAGES[damage]
    inflict(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(folder)
    assert str(folder) in str(caught.value)


def test_every_cut_of_either_file_is_an_error_of_ours(intact: Path, tmp_path: Path) -> None:
    for name in ("agent.json", "weights.safetensors"):
        whole = (intact / name).read_bytes()
        for length in range(0, len(whole), max(1, len(whole) // 40)):
            folder = tmp_path / "agent"
            shutil.copytree(intact, folder)
            (folder / name).write_bytes(whole[:length])
            with pytest.raises(CheckpointError):
                load_checkpoint(folder)
            shutil.rmtree(folder)


def test_has_checkpoint(intact: Path, tmp_path: Path) -> None:
    assert has_checkpoint(intact)
    assert not has_checkpoint(tmp_path / "agent")
