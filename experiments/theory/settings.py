"""Settings of the theory check: the data, the network, its two trainings, and what is measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rcnas_env.validation import require_integer, require_number


@dataclass(frozen=True)
class TheorySettings:
    """One field a symbol of section 3.4 and of Allen-Zhu and Li; the sizes are this check's own, for the papers give
    orders only.

    Raises:
        ValueError: a field is out of range.
    """

    dimension: int = 100
    """D: inputs, and atoms of the dictionary."""
    sparsity: int = 5
    """k: mean number of atoms in an input."""
    noise: float = 0.05
    """σ_x: standard deviation of ξ an entry; half of 1/√D, so that ‖ξ‖ is about 0.5 where ‖M z‖ is about 1.3."""
    neurons: int = 200
    """N of the full network."""
    shares: tuple[float, ...] = (0.5, 0.25)
    """What compression leaves: of the neurons, or of the weights."""
    smoothing: float = 0.05
    """σ_ρ: standard deviation of the noise that smooths the ReLU."""
    initial: float = 0.05
    """Standard deviation of the first weights."""
    clean_steps: int = 1500
    """T: steps of clean training."""
    adversarial_steps: int = 600
    """T': steps of adversarial training, from the clean network on."""
    batch: int = 128
    """Fresh samples a step."""
    learning_rate: float = 4.0
    """η of clean training; gradients in a weight are of order 1/D."""
    adversarial_rate: float = 2.0
    """η of adversarial training: smaller, for what the noise of single batches leaves in the weights is dense too."""
    decay: float = 0.001
    """λ of the regulariser λ Σ_i (‖w_i‖²/2 + ‖w_i‖³/3) of Allen-Zhu and Li; the paper names none (0)."""
    bias_start: float = 0.05
    """b at first; it grows linearly in the first half of clean training, as in Allen-Zhu and Li, then stays."""
    bias_end: float = 0.3
    """b after that: below the 1/√k = 0.45 of a small atom."""
    radius: float = 0.2
    """τ: l2 radius of the attack, in training and test; ‖x‖ is about 1.4."""
    threshold: float = 0.5
    """κ: atoms of at least this share of a neuron's largest are its pure feature; κ = 1 is reported beside it."""
    checkpoints: int = 7
    """Iterations of adversarial training at which gradient movement is measured: 0, then 1 to T' by equal factors."""
    probe: int = 8000
    """Samples that gradient movement is measured on."""
    test: int = 1000
    """Samples that accuracies are measured on."""
    attack_steps: int = 20
    """Steps of the test's projected gradient descent."""

    def __post_init__(self) -> None:
        require_integer("dimension", self.dimension, 2)
        require_integer("sparsity", self.sparsity, 1, self.dimension)
        for field in ("neurons", "clean_steps", "adversarial_steps", "batch", "test", "attack_steps"):
            require_integer(field, getattr(self, field), 1)
        require_integer("probe", self.probe, 2)
        require_integer("checkpoints", self.checkpoints, 2)
        for field in ("noise", "smoothing", "decay", "radius", "bias_start"):
            require_number(field, getattr(self, field), minimum=0.0)
        for field in ("initial", "learning_rate", "adversarial_rate", "bias_end"):
            require_number(field, getattr(self, field), minimum=0.0, exclusive_minimum=True)
        require_number("threshold", self.threshold, minimum=0.0, maximum=1.0, exclusive_minimum=True)
        if not self.shares or len(set(self.shares)) < len(self.shares):
            raise ValueError(f"shares must be one or more different numbers in (0, 1), got {self.shares!r}")
        for share in self.shares:
            require_number("shares", share, minimum=0.0, maximum=1.0, exclusive_minimum=True)
            if share == 1 or round(share * self.neurons) < 1:
                raise ValueError(f"shares must be below 1 and leave at least one neuron, got {share!r}")

    def moments(self) -> list[int]:
        """The checkpoints' iterations, in order; fewer than asked for where rounding makes some the same."""
        later = np.geomspace(1, self.adversarial_steps, self.checkpoints - 1).round().astype(int)
        return sorted({0, self.adversarial_steps, *later.tolist()})

    def bias(self, step: int) -> float:
        """Bias b at a step, from 0, of clean training; `bias_end` from half of it on."""
        return self.bias_start + (self.bias_end - self.bias_start) * min(1.0, 2 * step / self.clean_steps)
