"""One TRADES step of ours against one of the published loop, in turn, on one thread; and what each switch is worth.

    python -m benchmarks.training
    python -m benchmarks.training --ladder --networks "WRN-16-2 at 8x8"
    python -m benchmarks.training --compiled --networks "WRN-10-1 at 8x8"

Both in processes of their own, on the same network, batch and inner steps, the making of the batch included. The
baseline is `benchmarks.published`: DataLoader, NCHW memory, fp32. Rates count the multiply-accumulates that each
loop asks for (27 forward passes an image at 10 inner steps, 39 for the published one), whatever a kernel makes of
them: on small maps ours replaces convolutions by products with more zeros, or fewer. On a GPU torch lets fp32
convolutions take TF32, and so does the baseline; the fp32 peak is without.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from benchmarks import published
from benchmarks.compilation import compilations_on, new_compiler_cache, prepare_compiler, worth
from benchmarks.contender import Contender
from benchmarks.peak import gemm_gflops
from benchmarks.summary import print_summary
from benchmarks.timing import interleaved, spread
from benchmarks.training_steps import (
    ON_CPU,
    ON_GPU,
    forward_equivalents,
    gflop,
    network_of,
    prepare_breakdown,
    prepare_own,
    prepare_published,
)
from rcnas_env.training.fit import cpu_threads
from rcnas_env.training.recipe import COMPILATIONS, Recipe
from rcnas_env.validation import require_choice, require_integer


@dataclass(frozen=True)
class Training:
    """Settings of the measurement."""

    networks: tuple[str, ...] = ()
    """Names among `benchmarks.training_steps.NETWORKS`; none for those that suit the device."""
    batch_size: int = 128
    """Images a step."""
    inner_steps: int = 10
    """Steps of the inner maximisation."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of our step; "auto" takes bf16 where the machine computes that faster. The published loop's is fp32."""
    compilation: str = "off"
    """Of our step, as Recipe has it; what it takes to compile is not counted, see `compiled`."""
    pairs: int = 3
    """Timed pairs of each network at least, after a shortened one that is not counted."""
    seconds: float = 6.0
    """More pairs follow until so many seconds are spent on a network."""
    ladder: bool = False
    """The effect of each switch in turn, in place of the comparison."""
    compiled: bool = False
    """In place of the comparison: what compiling takes, what it saves, and after how many steps it pays; each kind of
    compilation that the device has, or `compilation` alone if that is not "off"."""
    device: str = "cpu"
    """"cpu" (one thread) or "cuda"."""
    own_processes: bool = True
    """Run each contender in a process of its own."""
    json: bool = False
    """Print JSON with versions and hardware in place of text."""

    def __post_init__(self) -> None:
        require_integer("pairs", self.pairs, 1)
        require_choice("compilation", self.compilation, COMPILATIONS)

    @property
    def recipe(self) -> Recipe:
        """Recipe's defaults with these settings."""
        return Recipe(
            batch_size=self.batch_size,
            inner_steps=self.inner_steps,
            precision=self.precision,
            compilation=self.compilation,
        )

    @property
    def chosen(self) -> tuple[str, ...]:
        """The networks to measure."""
        return self.networks or (ON_GPU if self.device.startswith("cuda") else ON_CPU)


def measure(config: Training) -> dict[str, dict[str, Any]]:
    """For each network: milliseconds of both, the pairs' ratios, rates, shares of the peak, our step by part."""
    specs = {name: network_of(name) for name in config.chosen}
    own_recipe = config.recipe
    peaks = {p: gemm_gflops(p, config.device) for p in sorted({"fp32", own_recipe.precision})}
    found: dict[str, dict[str, Any]] = {
        "peak": {
            "precision": own_recipe.precision,
            **{f"{precision}_gflops": peak for precision, peak in peaks.items()},
        }
    }
    with Contender(own_process=config.own_processes) as theirs, Contender(own_process=config.own_processes) as ours:
        for name, spec in specs.items():
            common = (spec, own_recipe, config.device)
            for contender, prepare in ((theirs, prepare_published), (ours, prepare_own)):
                contender.prepare(prepare, *common)
            pairs = interleaved(
                lambda c=common: theirs.run(prepare_published, *c),  # type: ignore[misc]
                lambda c=common: ours.run(prepare_own, *c),  # type: ignore[misc]
                config.pairs,
                config.seconds,
            )
            their, own = (statistics.median(column) for column in zip(*pairs, strict=True))
            parts = _medians([ours.run(prepare_breakdown, *common) for _ in range(config.pairs)])
            our_rate = gflop(spec, config.batch_size, forward_equivalents(config.inner_steps)) / own
            rate = gflop(spec, config.batch_size, published.forward_equivalents(config.inner_steps)) / their
            found[name] = {
                "ms": 1e3 * own,
                "published_ms": 1e3 * their,
                **spread([pair[0] / pair[1] for pair in pairs], "ratio"),
                "pairs": len(pairs),
                "gflops": our_rate,
                "published_gflops": rate,
                "share_of_peak": our_rate / peaks[own_recipe.precision],
                "published_share_of_peak": rate / peaks["fp32"],
                "parts_ms": {part: 1e3 * seconds for part, seconds in parts.items()},
            }
    return found


def _medians(breakdowns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median seconds of each part of several steps."""
    return {part: statistics.median(each[part] for each in breakdowns) for part in breakdowns[0]}


def ladder(config: Training) -> dict[str, dict[str, Any]]:
    """For each network: how many times faster than the published step, with one switch more from rung to rung.

    The first rung is all that has no switch: data in memory, channels-last, one clean prediction a maximisation, two
    forward passes in the outer step, fused optimizer. The precision is one only where ours is
    not fp32. Kept memory, the last, is what no training asks for.
    """
    fp32 = config.recipe.but(precision="fp32")
    unfolded, own = fp32.but(folded=False), config.recipe
    rungs: dict[str, tuple[int, Recipe, bool]] = {  # process, recipe, plain convolutions
        "no switch": (0, unfolded, True),
        "+ matrix products for convolutions": (0, unfolded, False),
        "+ frozen network": (0, fp32, False),
    }
    if own.precision != "fp32":
        rungs[f"+ {own.precision}"] = (0, own, False)
    rungs["+ kept memory"] = (1, own, False)
    found: dict[str, dict[str, Any]] = {}
    isolated = config.own_processes
    with (
        Contender(own_process=isolated) as theirs,
        Contender(own_process=isolated) as as_it_is,
        Contender(own_process=isolated) as keeping,
    ):
        for name in config.chosen:
            spec = network_of(name)
            rounds = []
            for number in range(config.pairs + 1):
                their = theirs.run(prepare_published, spec, fp32, config.device)
                ratios = {
                    rung: their
                    / (as_it_is, keeping)[process].run(prepare_own, spec, recipe, config.device, plain, process == 1)
                    for rung, (process, recipe, plain) in rungs.items()
                }
                if number:
                    rounds.append(ratios)
            for rung in rungs:
                found[f"{name}, {rung}"] = spread([ratios[rung] for ratios in rounds], "ratio")
    return found


def compiled(config: Training) -> dict[str, dict[str, Any]]:
    """For each kind of compilation asked for and each network: see `benchmarks.compilation.worth`."""
    found: dict[str, dict[str, Any]] = {}
    isolated = config.own_processes
    for compilation in compilations_on(config.device) if config.compilation == "off" else (config.compilation,):
        with (
            new_compiler_cache(),
            Contender(own_process=isolated) as plain,
            Contender(own_process=isolated) as compiling,
        ):
            start = compiling.run(prepare_compiler, compilation, config.device)
            found[compilation] = {"start_seconds": start}
            recipe = config.recipe.but(compilation=compilation)
            for name in config.chosen:
                common = (network_of(name), recipe, config.device)
                found[f"{name}, {compilation}"] = worth(plain, compiling, common, config.pairs, config.seconds)
    return found


def main() -> None:
    """Command line."""
    config = tyro.cli(Training, description=__doc__)
    with cpu_threads(1):
        found = compiled(config) if config.compiled else ladder(config) if config.ladder else measure(config)
    print_summary(found, config.json, config)


if __name__ == "__main__":
    main()
