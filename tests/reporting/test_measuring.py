"""Measures of a channel, summed over its boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bigdecon.reporting.box_tasks import Measured
from bigdecon.reporting.measures import StackMeasures
from bigdecon.reporting.samples import Sample

SAMPLE = Sample(((0, 64),), ((0,),))


def measured(kept, signal):
    return Measured(1.0, (0.0,), np.zeros(1), np.ones(1), 0.0, kept, signal, 100)


def test_boxes_without_light_do_not_count_for_the_light_that_is_kept():
    dark = {(i,): measured(math.nan, -15.0) for i in range(1, 40)}
    found = StackMeasures(
        channel=0, timepoint=0, sample=SAMPLE, measured={(0,): measured(0.9, 1000.0), **dark}
    )
    assert found.kept == pytest.approx(0.9)
    assert StackMeasures(channel=0, timepoint=0, sample=SAMPLE, measured=dark).kept is None
