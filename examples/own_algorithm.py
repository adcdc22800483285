"""A search algorithm of your own on the tabular twin, in 40 lines: here the cross-entropy method.

    python examples/own_algorithm.py --generations 30

Prints the best student's reward, in expectation over training seeds, against the best that any student has.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np

import rcnas_env  # noqa: F401  (registers the environments)
from rcnas_env.tabular.landscape import TaskLandscape
from rcnas_env.tabular.table import load_table
from rcnas_env.task import Task

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--generations", type=int, default=30)
parser.add_argument("--population", type=int, default=32, help="students a generation; a quarter are its elite")
parser.add_argument("--seed", type=int, default=0)
given = parser.parse_args()

table = load_table("digits")
# a budget in multiply-accumulates an image; with annealing_steps=0 students over it earn −1 from the start
task = Task("digits", attack="pgd-20", teacher=table.space.teacher, budget=800_000)
options = {"tasks": task, "annealing_steps": 0, "max_episode_steps": given.generations}
envs = gym.make_vec("RCNAS-Tabular-v0", num_envs=given.population, **options)
envs.reset(seed=given.seed)

rng, shape = np.random.default_rng(given.seed), (given.population, 3, 2)
mean, spread, on = np.full((3, 2), 0.5), np.full((3, 2), 0.3), np.full((3, 2), 0.5)  # of shares, and of switches
best, best_reward = 0, -np.inf
for _ in range(given.generations):
    keep = np.clip(rng.normal(mean, spread, shape), 0, 1)
    switch = (rng.random(shape) < on).astype(np.int8)
    _, rewards, _, _, infos = envs.step({"keep": keep, "switch": switch})
    if rewards.max() > best_reward:
        best, best_reward = infos["student"][rewards.argmax()], rewards.max()  # a row of the table
    elite = np.argsort(rewards)[-max(1, given.population // 4) :]
    mean, spread = keep[elite].mean(0), keep[elite].std(0) + 0.02  # never quite certain of a share
    on = np.clip(switch[elite].mean(0), 0.05, 0.95)  # nor of a switch

landscape = TaskLandscape(table, task)
student = table.space.network(int(best))
print(f"reward of the best student, one training: {best_reward:.4f}")
print(f"in expectation: {landscape.expected_reward(student):.4f}; of the best there is: {landscape.best:.4f}")
print(student.to_json())
