"""Numbers as text: few digits, and more where few would say something other than the number does."""

from __future__ import annotations

from collections.abc import Callable

MORE = 2  # digits at most: 0.999996 may become 1.00000, whose zeros show that it is not exactly 1


def shown(value: float, digits: int = 3, side: Callable[[float], object] = lambda value: None) -> str:
    """With `digits` decimals, or as many more as keep 0.9996 from becoming 1, 0.0004 from becoming 0, and either from
    changing its `side` of a bound: 0.6003, which is above 0.6, is not shown as 0.600."""
    for digits_here in range(digits, digits + MORE + 1):
        text = f"{value:z.{digits_here}f}"  # z: no -0.000
        told = float(text)
        if side(told) == side(value) and (told not in (0, 1) or told == value):
            break
    return text


def of_hundred(share: float, side: Callable[[float], object] = lambda value: None) -> str:
    """A share of 1 as a number out of 100: whole, or with decimals where `shown` needs them."""
    return f"{100 * float(shown(share, 2, side)):.4g}"
