"""Tree-structured Parzen estimator (Bergstra, Bardenet, Bengio and Kégl, NeurIPS 2011), Optuna's."""

from __future__ import annotations

from optuna.samplers import BaseSampler, TPESampler

from agents.optuna_search import OptunaSearch


class TPE(OptunaSearch):
    """Proposals that are likely among the good students and unlikely among the others; see `OptunaSearch`.

    All of the sampler's settings but its seed and `startup` are Optuna's defaults.
    """

    name = "TPE"

    def sampler(self, seed: int) -> BaseSampler:
        """See `OptunaSearch`."""
        return TPESampler(seed=seed, n_startup_trials=self.startup)
