"""Stable-baselines3's PPO on RCNAS-v0: the hybrid action as one flat box, by a wrapper.

    python examples/sb3_ppo.py                     # looks rewards up in the table "digits": seconds
    python examples/sb3_ppo.py --live --steps 32   # trains and attacks every student: several seconds a step

Only the engine differs. The best student that was tried within the budget is printed: that is what a search is for,
whatever the policy has learnt. By default PPO waits for 2,048 steps before its first update; here it waits for 32.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

import rcnas_env  # noqa: F401  (registers the environments)
from rcnas_env.task import Task, resolve_teacher
from rcnas_env.wrappers import FlatAction

UPDATE_EVERY = 32
"""Steps between PPO's updates."""


class Memory(BaseCallback):
    """Keeps the info of the best student within the budget, and all rewards."""

    def __init__(self) -> None:
        super().__init__()
        self.best: dict[str, Any] | None = None
        self.rewards: list[float] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            terms = info["reward_terms"]
            self.rewards.append(terms["reward"])
            if terms["within_budget"] and (self.best is None or terms["reward"] > self.best["reward_terms"]["reward"]):
                self.best = info
        return True


def make_env(live: bool) -> FlatAction:
    """One task, an episode a student: budget in multiply-accumulates an image, students over it earn −1."""
    task = Task("digits", attack="pgd-20", teacher=resolve_teacher("WRN-16-1", "digits"), budget=800_000)
    source: dict[str, Any] = {"engine": "trained"}
    if not live:
        source = {"engine": "tabular", "engine_options": {"table": "digits"}, "store": None}
    return FlatAction(gym.make("RCNAS-v0", tasks=task, annealing_steps=0, max_episode_steps=1, **source))


def main() -> None:
    """Learn, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--live", action="store_true", help="train every student for real")
    parser.add_argument("--steps", type=int, default=2_048)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    env, memory = make_env(given.live), Memory()
    model = PPO(
        "MultiInputPolicy", env, n_steps=UPDATE_EVERY, batch_size=UPDATE_EVERY, gamma=0.0, seed=given.seed, device="cpu"
    )
    model.learn(given.steps, callback=memory)
    env.close()
    tenth = max(1, len(memory.rewards) // 10)
    first, last = (sum(part) / tenth for part in (memory.rewards[:tenth], memory.rewards[-tenth:]))
    print(f"{len(memory.rewards)} students; mean reward of the first tenth {first:.3f}, of the last {last:.3f}")
    if memory.best is None:
        print("no student was within the budget")
        return
    reward, accuracy, macs = memory.best["reward_terms"]["reward"], memory.best["robust_accuracy"], memory.best["macs"]
    print(f"best reward {reward:.4f}: robust accuracy {accuracy:.3f}, {macs} MACs")


if __name__ == "__main__":
    main()
