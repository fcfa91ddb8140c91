"""Numbers to the digits that matter: a measured one to two digits of its error."""

from __future__ import annotations

import math

from runs.quality import Estimate

_NOISE = 1e-6  # an error below it is that of floating point


def measured(value: float, error: float | None = None, *, sign: bool = False) -> str:
    """``0.125 ± 0.013``: the error to two significant digits, the value to the same place.

    Without a usable error, the value to three significant digits.
    """
    form = "+" if sign else ""
    if not math.isfinite(value):
        return "unknown"
    if error is None or not math.isfinite(error) or error < _NOISE:
        return f"{value:{form}.3g}" if value else "0"
    places = max(0, 1 - math.floor(math.log10(error)))
    if float(f"{error:.{places}f}") >= 10 ** (2 - places):  # 0.0996 is 0.10, not 0.100
        places = max(0, places - 1)
    return f"{value:{form}.{places}f} ± {error:.{places}f}"


def estimated(found: Estimate | None, unit: str = "contexts") -> str:
    """A mean with its error and how many it is of."""
    if found is None:
        return "not measured"
    return f"{measured(found.value, found.error)} (n = {found.n} {unit})"


def milliseconds(seconds: float) -> str:
    """Four significant digits."""
    return f"{seconds * 1e3:.4g} ms" if math.isfinite(seconds) else "unknown"


def size(count: float) -> str:
    """Bytes as B, KB, MB or GB, three significant digits."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.3g} B"
