"""The published networks of cells that the RC-NAS paper compares with: RobNet-large-v2, AdvRush and RACL."""

from __future__ import annotations

import re

from rcnas_env.cell_architecture import MAX_CHANNELS, MAX_LAYERS, CellNetworkSpec, Genotype
from rcnas_env.image_shape import require_input_shape

_NONE, _SKIP, _AVG = "none", "skip_connect", "avg_pool_3x3"
_SEP3, _SEP5, _DIL3, _RES3 = "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "res_sep_conv_3x3"

ADVRUSH = Genotype(
    normal=(((_SEP3, 1), (_SEP3, 0)), ((_SEP5, 0), (_SEP3, 1)), ((_SEP3, 1), (_SEP3, 0)), ((_SKIP, 0), (_SEP3, 1))),
    reduce=(((_SEP3, 0), (_SEP3, 1)), ((_SKIP, 0), (_DIL3, 2)), ((_SKIP, 0), (_AVG, 1)), ((_SKIP, 0), (_SKIP, 2))),
)
"""The cells of AdvRush (Mok et al. 2021)."""

RACL = Genotype(
    normal=(((_SEP3, 0), (_SEP3, 1)), ((_SEP5, 0), (_SKIP, 1)), ((_SEP3, 0), (_SKIP, 3)), ((_SEP3, 3), (_SKIP, 4))),
    reduce=(((_SEP3, 0), (_SEP5, 1)), ((_AVG, 0), (_DIL3, 1)), ((_SEP3, 0), (_SEP5, 1)), ((_SEP3, 2), (_DIL3, 3))),
)
"""The cells of RACL (Dong et al. 2020)."""

_ROBNET_CODES = {"00": _NONE, "01": _SEP3, "10": _SKIP, "11": _RES3}


def _robnet_genotype(code: str) -> Genotype:
    """RobNet's notation: nodes split by "|", one two-bit code for each state that a node could read."""
    nodes = tuple(
        tuple((_ROBNET_CODES[bits], state) for state, bits in enumerate(node.split())) for node in code.split("|")
    )
    return Genotype(normal=nodes, reduce=nodes)


ROBNET_LARGE_V2 = _robnet_genotype("11 11|11 11 11|01 11 01 10|11 01 01 01 11")
"""The one cell of RobNet-large-v2 (Guo et al. 2020), normal and reduction cell alike."""

CELL_NETWORK_NAMES = ("RobNet-large-v2", "AdvRush-N@C", "RACL-N@C")
"""Names that `named_cell_network` knows; N@C stands for 3N + 2 cells and C channels (RC-NAS paper, section 4)."""

_N_AT_C = re.compile(r"(AdvRush|RACL)-(\d{1,4})@(\d{1,4})")
_N_AT_C_GENOTYPES = {"AdvRush": ADVRUSH, "RACL": RACL}


def named_cell_network(name: object, input: tuple[int, int, int], classes: int) -> CellNetworkSpec | None:
    """The network of cells called `name`, None if there is none; from 64×64 images on its stem has stride 2.

    Raises:
        ValueError: N or C of N@C is out of range, or `input` or `classes` is.
    """
    shape = require_input_shape("input", input)
    stem_stride = 2 if min(shape[1:]) >= 64 else 1
    if name == "RobNet-large-v2":  # 33 cells of 64 channels: the authors' CIFAR-10 configuration
        return CellNetworkSpec(ROBNET_LARGE_V2, 33, 64, False, stem_stride, shape, classes)
    match = _N_AT_C.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        return None
    repeats, channels = int(match[2]), int(match[3])
    if not 1 <= repeats <= (MAX_LAYERS - 2) // 3 or not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(
            f"network {name!r}: N@C must have N from 1 to {(MAX_LAYERS - 2) // 3} and C from 1 to {MAX_CHANNELS}"
        )
    genotype = _N_AT_C_GENOTYPES[match[1]]
    return CellNetworkSpec(genotype, 3 * repeats + 2, channels, True, stem_stride, shape, classes)
