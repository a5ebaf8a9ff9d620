"""Dataclasses from JSON that somebody else wrote: every value is of the type its field has, or refused."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bigdecon.untrusted import is_number, is_whole, shown

__all__ = ["checked_fields", "from_json"]

T = TypeVar("T")

MOST_ENTRIES = 2**20
"""Longest list, such as a training curve."""
LARGEST_WHOLE = 2**63
"""Any whole number beyond does not fit the computer's own."""


def from_json(cls: type[T], values: object) -> T:
    """Make a dataclass of plain fields from a JSON object.

    Parameters
    ----------
    cls : a dataclass whose fields are bool, int, float, str, a choice of texts, None, or tuples of these
    values : the object; fields that it lacks keep their defaults

    Raises
    ------
    ValueError
        if it is no object, names a field that there is not, or a value is of another type
    TypeError
        if it lacks a field without default
    """
    return cls(**checked_fields(cls, values))


def checked_fields(cls: type, values: object) -> dict[str, Any]:
    """Give the fields of a dataclass that a JSON object names; parameters and errors as for `from_json`."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{shown(values)} stands where a {cls.__name__} should be described")
    hints = get_type_hints(cls)
    names = {field.name for field in fields(cls)}
    for name in values:
        if name not in names:
            raise ValueError(f"{cls.__name__} has no setting {shown(name)}")
    return {name: _converted(value, hints[name], name) for name, value in values.items()}


def _converted(value: Any, hint: Any, name: str) -> Any:
    """Give a value as its field's type; JSON knows lists instead of tuples, and no dataclasses."""
    origin, inside = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and isinstance(value, hint) and hint not in (int, float):
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inside:
            return None
        return _converted(value, next(one for one in inside if one is not type(None)), name)
    if origin is tuple and isinstance(value, list | tuple) and len(value) <= MOST_ENTRIES:
        return tuple(_converted(one, inside[0], name) for one in value)
    if origin is Literal and isinstance(value, str) and value in inside:
        return value
    if hint is int and is_whole(value, -LARGEST_WHOLE) and value < LARGEST_WHOLE:
        return value
    if hint is float and is_number(value):
        return value
    raise ValueError(f"{name} is {shown(value)}, which it cannot be")
