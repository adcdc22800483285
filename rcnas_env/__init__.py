"""RC-NAS: reinforced compressive neural architecture search for versatile adversarial robustness.

Importing this package registers the environments with gymnasium and imports no torch:

    import gymnasium as gym
    import rcnas_env

    env = gym.make("RCNAS-v0")
"""

import gymnasium as gym

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
