"""Image sets attacked through a teacher (Algorithm 2): the same for all of its students, so attacked once a process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

from rcnas_env.evaluation.job import Job

KEPT = 4
"""Sets, the last ones asked for: of 256 images of 3×32×32 some 3 MB each, of whole test sets a hundred times that."""

_sets: OrderedDict[tuple[str, int, str], Tensor] = OrderedDict()


def attacked_once(source: Job, weights: bytes, device: str, attack: Callable[[], Tensor]) -> Tensor:
    """What `attack` returns for `source` (`Job.source_job`), or returned when it was last asked for; on `device`.

    Args:
        source: the teacher's own job: its key decides the images, by its weights.
        weights: of the teacher, safetensors bytes.
        device: where the attack runs, and by whose rounding.
        attack: the attacked images (N, channels, height, width).
    """
    key = source.key, hash(weights), device
    if key not in _sets:
        _sets[key] = attack().cpu()
        while len(_sets) > KEPT:
            _sets.popitem(last=False)
    _sets.move_to_end(key)
    return _sets[key].to(device, copy=True)
