"""Bayesian optimisation (Snoek, Larochelle and Adams, NeurIPS 2012) with a Gaussian process, Optuna's."""

from __future__ import annotations

from optuna.distributions import IntDistribution
from optuna.samplers import BaseSampler, GPSampler

from agents.optuna_search import OptunaSearch


class BayesianOptimisation(OptunaSearch):
    """Proposals of largest log expected improvement under a Gaussian process on action and reward; see `OptunaSearch`.

    All of the sampler's settings but its seed and `startup` are Optuna's defaults: a Matérn-5/2 kernel with a length
    scale for every entry of the action, noise fitted with the rest. Needs scipy and torch. A fit takes time cubic in
    the number of students tried: meant for tens to a few hundred.
    """

    name = "Bayesian optimisation"

    switch_distribution = IntDistribution(0, 1)
    """Of two values, so that their distance is the same as between categories; the sampler is faster with integers."""

    def sampler(self, seed: int) -> BaseSampler:
        """See `OptunaSearch`."""
        return GPSampler(seed=seed, n_startup_trials=self.startup)
