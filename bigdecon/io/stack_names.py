"""What the numbers in the names of a series of files mean: planes, channels, time points. Pure functions.

cell_t01_ch2_z007.tif        text  number  text  number  text  number  text
     ^^  ^^^ ^^^^            the letters before a number that differs between files name its axis
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

from bigdecon.errors import OptionError, VolumeError

__all__ = ["StackNames", "arrange_names", "natural_key"]

STACKABLE = "tcz"
WORDS = {
    **dict.fromkeys(("z", "zs", "plane", "planes", "slice", "slices", "section", "focus"), "z"),
    **dict.fromkeys(("c", "ch", "chan", "channel", "w", "wave", "wavelength", "lambda"), "c"),
    **dict.fromkeys(("t", "tp", "time", "timepoint", "frame"), "t"),
}
"""Axes by the word before a number, in small letters."""
MAX_SHOWN = 3


@dataclass(frozen=True)
class StackNames:
    """Names of files in the order of the axes that they make.

    Attributes
    ----------
    axes : letters of the axes along which the files lie, some of "tcz" in this order
    shape : number of files along each
    names : in C order of these axes
    channels : names of the channels, where c is one of the axes
    notes : what was assumed, in sentences
    """

    axes: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    channels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort "plane2" before "plane10", as people do."""
    parts = re.split(r"(\d+)", name)
    return tuple((1, int(p), p) if p.isdecimal() else (0, 0, p.lower()) for p in parts if p)


@dataclass(frozen=True)
class _Number:
    """A number that differs between the files: where it stands in a name, its axis, and its values."""

    position: int
    axis: str
    values: tuple[int, ...]


def arrange_names(names: Sequence[str], where: str, file_axes: str, order: str | None = None) -> StackNames:
    """Put the names of files in order, and say which axes they make.

    Parameters
    ----------
    names : of the files, two or more
    where : folder or pattern they were found by, for messages
    file_axes : axes that each file has itself, "yx" or more
    order : axes of the numbers that differ, in the order of the names, such as "tz"; told by the names if
        it is not given

    Raises
    ------
    VolumeError
        if the names differ in more than numbers, or a file is missing or there twice
    OptionError
        if the names do not tell what the numbers mean
    """
    split = {name: re.split(r"(\d+)", name) for name in sorted(names, key=natural_key)}
    _check_one_series(list(split), list(split.values()), where)
    numbers = _numbers(list(split.values()), where, file_axes, order)
    numbers = sorted(numbers, key=lambda number: STACKABLE.index(number.axis))
    by_place: dict[tuple[int, ...], str] = {}
    for name, parts in split.items():
        place = tuple(int(parts[number.position]) for number in numbers)
        if place in by_place:
            raise VolumeError(
                f"{by_place[place]} and {name} in {where} have the same numbers; leave one out, or give "
                "a pattern that matches one series."
            )
        by_place[place] = name
    _check_complete(by_place, numbers, where)
    ordered = tuple(by_place[place] for place in itertools.product(*(n.values for n in numbers)))
    axes = "".join(n.axis for n in numbers)
    shape = tuple(len(n.values) for n in numbers)
    return StackNames(
        axes, shape, ordered, _channels(split[ordered[0]], numbers), _notes(axes, shape, numbers)
    )


def _check_one_series(names: Sequence[str], split: Sequence[Sequence[str]], where: str) -> None:
    for name, parts in zip(names, split, strict=True):
        if parts[::2] != split[0][::2]:
            raise VolumeError(
                f"{names[0]} and {name} in {where} differ in more than numbers, so their order is not known; "
                "give a pattern that matches one series, such as 'folder/plane_*.tif'."
            )


def _numbers(split: Sequence[Sequence[str]], where: str, file_axes: str, order: str | None) -> list[_Number]:
    """Find the numbers that differ between the names, and their axes."""
    found = []
    for position in range(1, len(split[0]), 2):
        values = tuple(sorted({int(parts[position]) for parts in split}))
        if len(values) > 1:
            found.append(_Number(position, _axis(split[0][position - 1]), values))
    if order is not None:
        found = _as_told(found, order.lower(), where, split[0])
    elif math.prod(len(n.values) for n in found if n.axis) == len(split):
        found = [number for number in found if number.axis]  # others, such as a clock, say nothing
    elif len(found) == 1 and not found[0].axis and "z" not in file_axes:
        found = [_Number(found[0].position, "z", found[0].values)]
    axes = [number.axis for number in found]
    if not all(axes) or len(set(axes)) != len(axes):
        raise OptionError(
            f"the names in {where}, such as {''.join(split[0])}, have {len(found)} numbers that differ, "
            "and do not tell what they mean; say so with --stack, one of t, c and z for each, such as "
            "--stack tz."
        )
    twice = [axis for axis in axes if axis in file_axes]
    if twice:
        raise OptionError(
            f"each file in {where} has an axis {twice[0]} of its own, and the numbers in the names seem to "
            "mean the same; say with --stack what they mean (t, c or z), or give the one file that names "
            "the others."
        )
    return found


def _axis(text: str) -> str:
    """Give the axis that the text before a number names; "" if it names none."""
    word = re.search(r"([A-Za-z]+)[^A-Za-z]*$", text)
    return WORDS.get(word.group(1).lower(), "") if word else ""


def _as_told(found: Sequence[_Number], order: str, where: str, parts: Sequence[str]) -> list[_Number]:
    if len(order) != len(found) or len(set(order)) != len(order) or any(a not in STACKABLE for a in order):
        raise OptionError(
            f"--stack {order} does not fit {where}: {len(found)} numbers differ between the names, such as "
            f"{''.join(parts)}; give one of t, c and z for each, in their order."
        )
    return [_Number(n.position, axis, n.values) for n, axis in zip(found, order, strict=True)]


def _check_complete(present: dict[tuple[int, ...], str], numbers: Sequence[_Number], where: str) -> None:
    """Refuse gaps: a plane left out would shift all that follow."""
    expected = [
        n.values if n.axis == "c" else tuple(range(n.values[0], n.values[-1] + 1, _step(n))) for n in numbers
    ]
    if math.prod(len(values) for values in expected) == len(present):
        return
    missing = (place for place in itertools.product(*expected) if place not in present)
    first = list(itertools.islice(missing, MAX_SHOWN))
    shown = "; ".join(
        ", ".join(f"{n.axis} {value}" for n, value in zip(numbers, place, strict=True)) for place in first
    )
    count = math.prod(len(values) for values in expected) - len(present)
    raise VolumeError(
        f"{where} has a gap: {count} of {count + len(present)} files are missing, such as those of {shown}; "
        "put them there, or give a pattern that matches a series without gaps."
    )


def _step(number: _Number) -> int:
    return reduce(math.gcd, (b - a for a, b in pairwise(number.values)))


def _channels(parts: Sequence[str], numbers: Sequence[_Number]) -> tuple[str, ...]:
    """Name channels as the files do: "ch2", "w561"."""
    for number in numbers:
        if number.axis == "c":
            word = re.search(r"([A-Za-z]*)[^A-Za-z]*$", parts[number.position - 1])
            prefix = word.group(1) if word else ""
            return tuple(f"{prefix or 'channel '}{value}" for value in number.values)
    return ()


def _notes(axes: str, shape: Sequence[int], numbers: Sequence[_Number]) -> tuple[str, ...]:
    names = {"t": "time points", "c": "channels", "z": "planes"}
    files = " x ".join(f"{n} {names[a]}" for a, n in zip(axes, shape, strict=True))
    steps = [
        f"The numbers of {n.axis} go up in steps of {_step(n)}; they are taken as neighbours."
        for n in numbers
        if n.axis != "c" and _step(n) > 1
    ]
    return (f"The files lie along {files}, by the numbers in their names.", *steps)
