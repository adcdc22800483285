"""RC-NAS: reinforced compressive neural architecture search for versatile adversarial robustness.

Importing this package registers the environments with gymnasium and imports no torch:

    import gymnasium as gym
    import rcnas_env

    env = gym.make("RCNAS-v0")

A delivered student (docs/delivery.md) is loaded by `rcnas_env.load_student(path)`.
"""

from typing import TYPE_CHECKING, Any

import gymnasium as gym

if TYPE_CHECKING:
    from rcnas_env.delivery import load_student as load_student

__version__ = "0.1.0"

META_EPISODE_STEPS = 5
"""T, the steps of a meta-training episode (paper appendix D)."""

gym.register(
    id="RCNAS-v0",
    entry_point="rcnas_env.env:RCNASEnv",
    vector_entry_point="rcnas_env.vector_env:RCNASVectorEnv",
    max_episode_steps=META_EPISODE_STEPS,
)
gym.register(
    id="RCNAS-Tabular-v0",
    entry_point="rcnas_env.tabular.env:TabularEnv",
    vector_entry_point="rcnas_env.tabular.vector_env:TabularVectorEnv",
    max_episode_steps=META_EPISODE_STEPS,
)


def __getattr__(name: str) -> Any:
    """`load_student`, imported when it is first asked for (PEP 562): it needs torch, and this package must not."""
    if name == "load_student":
        from rcnas_env.delivery import load_student

        return load_student
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
