"""Independent random streams from one seed, without touching any global random state."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *labels: object) -> int:
    """A seed in [0, 2**63) for the stream that `labels` name; the same everywhere, on every platform.

    Streams with different labels are statistically independent, so that drawing more from one
    (a longer attack, say) never shifts another.
    """
    text = "/".join([str(int(seed)), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
