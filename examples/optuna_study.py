"""An Optuna study (TPE) on RCNAS-v0: each trial is one student.

    python examples/optuna_study.py                     # looks rewards up in the table "digits": seconds
    python examples/optuna_study.py --live --trials 20  # trains and attacks every student: several seconds a trial

Only the engine differs. A student's cost is known before it is trained, and the environment trains none that is over
the budget: with `annealing_steps=0` its reward is −1 whatever its accuracy.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import optuna

import rcnas_env  # noqa: F401  (registers the environments)
from rcnas_env.architecture import NetworkSpec
from rcnas_env.task import Task, resolve_teacher

STAGES = 3


def make_env(live: bool) -> gym.Env[Any, Any]:
    """One task, an episode a student; budget in multiply-accumulates an image."""
    task = Task("digits", attack="pgd-20", teacher=resolve_teacher("WRN-16-1", "digits"), budget=800_000)
    source: dict[str, Any] = {"engine": "trained"}
    if not live:
        source = {"engine": "tabular", "engine_options": {"table": "digits"}, "store": None}
    return gym.make("RCNAS-v0", tasks=task, annealing_steps=0, max_episode_steps=1, **source)


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """An action: for each stage the shares of width and depth that remain, and the switches."""
    keep, switch = np.zeros((STAGES, 2), np.float32), np.zeros((STAGES, 2), np.int8)
    for stage in range(STAGES):
        for column, name in enumerate(("width", "depth")):
            keep[stage, column] = trial.suggest_float(f"{name}_{stage}", 0.0, 1.0)
        for column, name in enumerate(("downsample", "robust")):
            switch[stage, column] = trial.suggest_categorical(f"{name}_{stage}", (0, 1))
    return {"keep": keep, "switch": switch}


def main() -> None:
    """Run the study, and print its best student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--live", action="store_true", help="train every student for real")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    env = make_env(given.live)
    env.reset(seed=given.seed)

    def objective(trial: optuna.Trial) -> float:
        """The reward of the student that `trial` suggests; its accuracy and cost go into the trial's attributes."""
        _, reward, _, _, info = env.step(suggest(trial))
        for name in ("student", "robust_accuracy", "macs"):
            trial.set_user_attr(name, info[name])
        env.reset()
        return float(reward)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=given.seed))
    study.optimize(objective, n_trials=given.trials)
    env.close()
    best = study.best_trial
    print(f"best reward of {len(study.trials)} students: {study.best_value:.4f}")
    print(f"robust accuracy {best.user_attrs['robust_accuracy']}, {best.user_attrs['macs']} MACs")
    print(NetworkSpec.from_dict(best.user_attrs["student"]).to_json())


if __name__ == "__main__":
    main()
