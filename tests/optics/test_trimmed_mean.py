"""The trimmed mean, against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from bigdecon.optics.trimmed_mean import trimmed_mean


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.sampled_from([0.0, 0.1, 0.25, 0.49]))
def test_it_is_that_of_scipy(values, share):
    expected = scipy.stats.trim_mean(values, share)
    assert trimmed_mean(np.array(values), share) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_outliers_at_both_ends_do_not_count():
    assert trimmed_mean(np.array([[-1e9, 1.0], [2.0, 1e9]]), 0.25) == 1.5
