"""Boxes measured together: what a worker holds meanwhile, and what it answers."""

from __future__ import annotations

import pickle
import tracemalloc

from scipy.ndimage import gaussian_filter

from bigdecon.reporting.box_groups import GroupTask, examine_group
from bigdecon.reporting.box_tasks import Pairing
from bigdecon.volume import Volume
from tests.runs import kernel, specimen

SIDE, COUNT = 64, 4
PSF = kernel() / kernel().sum()


def group(count):
    image = specimen((SIDE, SIDE, COUNT * SIDE))
    volumes = (Volume.from_array(a) for a in (image, gaussian_filter(image.astype("float32"), 1)))
    stacks = [volume.stack() for volume in volumes]
    boxes = tuple(
        (slice(8, SIDE - 8), slice(8, SIDE - 8), slice(i * SIDE + 8, (i + 1) * SIDE - 8))
        for i in range(count)
    )
    return GroupTask(*stacks, Pairing(*stacks, PSF, 100.0), boxes, (0.3, 0.2, 0.2), True, False)


def test_an_answer_holds_planes_and_no_volume():
    answer = examine_group(group(COUNT))
    assert any(one.planes is not None for one in answer)
    assert all(one.measured.chi_square > 0 for one in answer)
    one_volume = 8 * (SIDE - 16) ** 3
    assert len(pickle.dumps(answer)) < one_volume / 2


def test_what_is_computed_of_a_box_is_dropped_before_the_next():
    examine_group(group(1))  # what is prepared once
    peaks = []
    for count in (1, COUNT):
        task = group(count)
        tracemalloc.start()
        examine_group(task)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    more = (COUNT - 1) * (SIDE - 8) * (SIDE - 10) ** 2  # voxels, with the PSF's radius about a box
    assert peaks[1] - peaks[0] < 12 * more
