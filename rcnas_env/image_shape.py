"""The shape of one image: (channels, height, width)."""

from __future__ import annotations

from rcnas_env.validation import require_integer, shown


def require_input_shape(field: str, value: object) -> tuple[int, int, int]:
    """Return `value` as (channels, height, width).

    Raises:
        ValueError: it is not three positive integers.
    """
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise ValueError(f"{field} must be [channels, height, width], got {shown(value)}")
    channels, height, width = value
    return (
        require_integer(f"{field}[0] (channels)", channels, 1, 1_024),
        require_integer(f"{field}[1] (height)", height, 1, 4_096),
        require_integer(f"{field}[2] (width)", width, 1, 4_096),
    )
