"""Kubernetes quantities: ``500m``, ``2Gi``, ``1e3`` (apimachinery ``resource.Quantity``).

The only place where a quantity becomes a number. Arithmetic is exact (Decimal), rounding is up, as in the original.
"""

import re
from decimal import ROUND_CEILING, Decimal

from vzkubelet.errors import InvalidInput

_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_DECIMAL = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
}
_MAX = Decimal(2**63 - 1)
_DIGITS = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
"""An exponent stands instead of a suffix, never beside one."""


def parse(text: str | int | float) -> Decimal:
    """The exact value of a quantity.

    Raises:
        InvalidInput: not a quantity.
    """
    raw = str(text).strip()
    for suffix, factor in _BINARY.items():
        if raw.endswith(suffix):
            return _number(raw, raw[: -len(suffix)]) * factor
    if raw and raw[-1] in "numkMGTPE":
        return _number(raw, raw[:-1]) * _DECIMAL[raw[-1]]
    return _number(raw, raw)


def _number(whole: str, digits: str) -> Decimal:
    value = Decimal(digits) if _DIGITS.fullmatch(digits) and ("e" not in digits.lower() or digits == whole) else None
    if value is None or abs(value) > _MAX:
        raise InvalidInput(
            f'"{whole}" is not a quantity: write a number with an optional suffix such as 500m, 2Gi or 1G'
        )
    return value


def to_int(text: str | int | float) -> int:
    """Whole units, rounded up (bytes of memory, number of pods)."""
    return int(parse(text).to_integral_value(rounding=ROUND_CEILING))


def to_milli(text: str | int | float) -> int:
    """Thousandths, rounded up (CPU in millicores)."""
    return int((parse(text) * 1000).to_integral_value(rounding=ROUND_CEILING))


def to_whole_cpus(text: str | int | float) -> int:
    """Whole processors, rounded up: what a virtual machine is given for a CPU request."""
    return to_int(text)


def format_bytes(size_bytes: int) -> str:
    """Bytes in the largest binary unit that divides them (``2Gi``, ``1536Mi``), as quantities are usually written."""
    for suffix, factor in reversed(_BINARY.items()):
        if size_bytes >= factor and size_bytes % factor == 0:
            return f"{size_bytes // factor}{suffix}"
    return str(size_bytes)
