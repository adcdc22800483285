"""Agents by name, all made the same way: for comparisons, and for the contract that tests hold each of them to."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from agents.agent import Agent
from agents.sb3_settings import LEARNERS, learner_class
from agents.state_encoder import StateEncoder
from rcnas_env.registry import Registry
from rcnas_env.task import Task

AgentFactory = Callable[..., Agent]
"""`factory(task, seed, encoder, **settings)` returns a new agent; encoder is a StateEncoder or None.

An agent that needs no task or no encoder ignores it."""

_AGENTS: Registry[AgentFactory] = Registry("agent")


def register_agent(name: str, factory: AgentFactory) -> None:
    """Make an agent known.

    Raises:
        ValueError: the name is taken.
    """
    _AGENTS.register(name, factory)


def known_agents() -> tuple[str, ...]:
    """The names of all agents registered so far."""
    return tuple(_AGENTS)


def make_agent(name: str, task: Task, seed: int = 0, encoder: StateEncoder | None = None, **settings: Any) -> Agent:
    """A new agent by its name.

    Args:
        name: one of `known_agents`.
        task: that the agent is going to search on.
        seed: of all that it draws.
        encoder: of states, where the agent has one; "vpg" and "vpg+" need it, PPO and the like do without too.
        settings: of the agent, in place of its defaults (docs/agents.md).

    Raises:
        UnknownNameError: no such agent; the message lists the known ones.
        ValueError: an argument is unknown or out of range.
        ModuleNotFoundError: the agent's library, an optional extra, is not installed.
    """
    return _AGENTS[name](task, seed, encoder, **settings)


def agent_settings(name: str) -> dict[str, Any]:
    """The settings that `make_agent` takes for an agent, with their defaults.

    Of a learner of stable-baselines3 or sb3-contrib, those that differ from the package's.

    Raises:
        UnknownNameError: no such agent; the message lists the known ones.
        ModuleNotFoundError: the agent's library, an optional extra, is not installed.
    """
    factory = _AGENTS[name]
    if name in LEARNERS:
        learner_class(name)  # raises if its package is missing
        return dict(LEARNERS[name].settings)
    module, taker = _TAKERS.get(name, ("", ""))
    made = getattr(importlib.import_module(module), taker) if module else factory
    parameters = inspect.signature(made).parameters.values()
    own = [
        each
        for each in parameters
        if each.name not in ("task", "seed", "encoder") and each.kind is not each.VAR_KEYWORD
    ]
    return {each.name: None if each.default is each.empty else each.default for each in own}


# Each factory imports its agent when called: their libraries are extras, and slow to import.


def _vpg(task: Task, seed: int, encoder: StateEncoder | None, **settings: Any) -> Agent:
    from agents.vpg import VPG, VPGConfig

    if encoder is None:
        raise ValueError("encoder must be a StateEncoder for agent 'vpg', got None")
    return VPG(encoder, VPGConfig(**_accepted("vpg", VPGConfig, settings)), seed)


def _vpg_plus(task: Task, seed: int, encoder: StateEncoder | None, **settings: Any) -> Agent:
    from agents.vpg_plus import VPGPlus, VPGPlusConfig

    if encoder is None:
        raise ValueError("encoder must be a StateEncoder for agent 'vpg+', got None")
    return VPGPlus(encoder, VPGPlusConfig(**_accepted("vpg+", VPGPlusConfig, settings)), seed)


def _searcher(name: str, module: str, class_name: str) -> AgentFactory:
    """A factory of a class that is called with (task, seed, **settings)."""

    def factory(task: Task, seed: int, encoder: StateEncoder | None, **settings: Any) -> Agent:
        """The searcher, its settings checked; the encoder is not used."""
        made = getattr(importlib.import_module(module), class_name)
        return made(task, seed, **_accepted(name, made, settings))

    return factory


def _scaling_rule(task: Task, seed: int, encoder: StateEncoder | None, **settings: Any) -> Agent:
    from agents.scaling_rule import ScalingRule

    return ScalingRule(task, **_accepted("scaling-rule", ScalingRule, settings))


def _sb3(algorithm: str) -> AgentFactory:
    def factory(task: Task, seed: int, encoder: StateEncoder | None, **settings: Any) -> Agent:
        """The learner, on the encoder's state where one is given, else on the plain one."""
        from agents.sb3 import SB3Agent

        return SB3Agent(algorithm, seed, encoder, settings)

    return factory


def _accepted(name: str, made: Callable[..., Any], settings: dict[str, Any]) -> dict[str, Any]:
    """`settings`, if `made` has a parameter for each.

    Raises:
        ValueError: it has not; the message names the first.
    """
    own = [each for each in inspect.signature(made).parameters if each not in ("task", "seed")]
    for setting in settings:
        if setting not in own:
            raise ValueError(f"settings of {name!r} must be among {', '.join(own) or 'none'}, got {setting!r}")
    return settings


_SEARCHERS = {
    "random-search": ("agents.random_search", "RandomSearch"),
    "evolution": ("agents.evolution", "RegularisedEvolution"),
    "local-search": ("agents.local_search", "LocalSearch"),
    "tpe": ("agents.tpe", "TPE"),
    "bayesian": ("agents.bayesian", "BayesianOptimisation"),
}
_TAKERS = {
    "vpg": ("agents.vpg", "VPGConfig"),
    "vpg+": ("agents.vpg_plus_settings", "VPGPlusConfig"),
    "scaling-rule": ("agents.scaling_rule", "ScalingRule"),
    **_SEARCHERS,
}
"""Module and name of what takes an agent's settings."""

register_agent("vpg", _vpg)
register_agent("vpg+", _vpg_plus)
register_agent("scaling-rule", _scaling_rule)
for _name, (_module, _class_name) in _SEARCHERS.items():
    register_agent(_name, _searcher(_name, _module, _class_name))
for _name in LEARNERS:
    register_agent(_name, _sb3(_name))
