"""Numbers within bounds as regular expressions, for schemas: Python and ECMAScript read them alike."""

from __future__ import annotations

from decimal import Decimal

_FRACTION = r"(?:\.[0-9]+)?"
_ANY = "[0-9]*"


def number_within(least: Decimal, most: Decimal, *, above: bool = False, below: bool = False) -> str:
    """Return what matches the numbers from `least` to `most`, such as 12 or 012.50, without sign or exponent.

    `above`: not `least` itself, and `below`: not `most` itself; each is then a whole number.
    """
    ahead = rf"(?={_at_least(least, above=above)}(?![0-9.]))" if least or above else ""
    return ahead + _at_most(most, below=below)


def _at_least(bound: Decimal, *, above: bool) -> str:
    whole, digits = _parts(bound)
    known = whole.lstrip("0")
    more = [f"[1-9][0-9]{{{len(known)},}}"]
    for place, digit in enumerate(known):
        if digit < "9":
            more.append(known[:place] + _one(int(digit) + 1, 9) + _some(len(known) - place - 1))
    rest = rf"\.{_digits_at_least(digits)}" if digits else r"\.0*[1-9][0-9]*" if above else _FRACTION
    return rf"0*(?:(?:{'|'.join(more)}){_FRACTION}|{whole}{rest})"


def _at_most(bound: Decimal, *, below: bool) -> str:
    whole, digits = _parts(bound)
    less = [f"[0-9]{{1,{len(whole) - 1}}}"] if len(whole) > 1 else []
    for place, digit in enumerate(whole):
        if digit > "0":
            less.append(whole[:place] + _one(0, int(digit) - 1) + _some(len(whole) - place - 1))
    known = [rf"(?:{'|'.join(less)}){_FRACTION}"] if less else []
    rest = rf"(?:\.{_digits_at_most(digits)})?" if digits else r"(?:\.0+)?"
    return rf"0*(?:{'|'.join(known if below else [*known, whole + rest])})"


def _digits_at_least(digits: str) -> str:
    """Return what matches the digits behind the point of at least as great a fraction."""
    if not digits:
        return _ANY
    zeros = len(digits) - len(digits.lstrip("0"))
    if zeros:
        return f"(?:0{{0,{zeros - 1}}}[1-9]{_ANY}|{'0' * zeros}{_digits_at_least(digits[zeros:])})"
    more = f"{_one(int(digits[0]) + 1, 9)}{_ANY}|" if digits[0] < "9" else ""
    return f"(?:{more}{digits[0]}{_digits_at_least(digits[1:])})"


def _digits_at_most(digits: str) -> str:
    less = f"{_one(0, int(digits[0]) - 1)}{_ANY}|" if digits[0] > "0" else ""
    rest = f"{_digits_at_most(digits[1:])}?" if digits[1:] else "0*"
    return f"(?:{less}{digits[0]}{rest})"


def _one(least: int, most: int) -> str:
    return f"[{least}-{most}]" if least < most else f"{least}"


def _some(number: int) -> str:
    return f"[0-9]{{{number}}}" if number else ""


def _parts(bound: Decimal) -> tuple[str, str]:
    """Return the digits before and behind the point."""
    whole, _, digits = f"{bound:f}".partition(".")
    return whole, digits.rstrip("0")
