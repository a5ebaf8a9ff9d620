"""Lengths of the finest detail: periods of the frequencies that the charts show, a row for each direction."""

from __future__ import annotations

import numpy as np
import pytest

from bigdecon.evaluation.detail import DetailCurve
from bigdecon.reporting.measures import Agreement, StackMeasures
from bigdecon.reporting.numbers import reaches_of
from bigdecon.reporting.samples import Sample

X = np.linspace(0.1, 2.0, 20)


def measures(*, image=1.0, carried=0.5, axial=True, after=0.4):
    halves = [Agreement("lateral", X, X, X, 4.0, 0.8, after, False, 3)]
    curves = [DetailCurve("lateral", X, X, X, X, image, carried)]
    if axial:
        halves.append(Agreement("axial", X, X, X, 2.0, 1.6, None, False, 3))
    return StackMeasures(0, 0, Sample((), ()), agreements=tuple(halves), detail=tuple(curves))


def test_every_length_is_one_over_its_frequency():
    plane, depth = reaches_of(measures(), in_um=True)
    assert plane == ("in the plane", "0.25 µm", "1 µm", "2 µm", "0.8 µm", "0.4 µm")
    assert depth == ("along z", "0.5 µm", "not known", "not known", "1.6 µm", "none")
    assert reaches_of(measures(), in_um=False)[0].optics == "0.25 voxels"


@pytest.mark.parametrize(
    ("image", "carried", "said"),
    [(1.0, 0.0, ("1 µm", "none")), (None, None, ("none", "not known"))],
)
def test_what_is_missing_is_told_from_what_is_not_known(image, carried, said):
    plane = reaches_of(measures(image=image, carried=carried, axial=False), in_um=True)[0]
    assert (plane.image, plane.carried) == said


def test_nothing_measured_gives_no_row():
    assert reaches_of(StackMeasures(0, 0, Sample((), ())), in_um=True) == ()


def test_long_lengths_are_whole_numbers_of_any_type():
    plane = reaches_of(measures(after=np.float64(123.4), axial=False), in_um=True)[0]
    assert plane.after == "123 µm"
