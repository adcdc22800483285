"""The fixed networks of a budget group: its teacher, and its rivals at a data set's image shape."""

from __future__ import annotations

import re

from agents.scaling_rule import scaling_rule
from experiments.reproduction.scale import Scale
from rcnas_env.architecture import Network, named_network
from rcnas_env.cell_architecture import CellNetworkSpec
from rcnas_env.cell_rivals import ROBNET_LARGE_V2
from rcnas_env.data import dataset_entry

TEACHER = "teacher"
_ROBNET = re.compile(r"RobNet-(\d+)@(\d+)")


def fixed_network(scale: Scale, place: str, group: str, role: str) -> Network | None:
    """The network that has `role` in a group at a data set's place; None where the group has none.

    Args:
        role: "teacher", or one of the group's rivals. Of rivals "RobNet-L@C" stands for L of RobNet-large-v2's cells
            of C channels, "rule" for RobustResNet's scaling rule at the group's budget.

    Raises:
        ValueError: the scale has no such place or group.
    """
    task = scale.task(place, group, "clean")
    if role == TEACHER:
        return task.teacher
    name = scale.groups[group].rivals.get(role)
    if name is None:
        return None
    if name == "rule":
        return scaling_rule(task.budget, task.teacher)
    data = dataset_entry(task.dataset)
    robnet = _ROBNET.fullmatch(name)
    if robnet:
        layers, channels = int(robnet[1]), int(robnet[2])
        return CellNetworkSpec(ROBNET_LARGE_V2, layers, channels, affine=False, input=data.input, classes=data.classes)
    return named_network(name, data.input, data.classes)
