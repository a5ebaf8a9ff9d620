"""How long the report at the end of a run takes: its boxes are counted, and one of them is timed.

all boxes              noise, residual and detail of each         as long as one of noise, by voxels
boxes with most light  the run's own method on two halves         as long as the blocks, by voxels
pictures and page                                                 as long as it took elsewhere
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bigdecon.deconvolution.tiling import grow
from bigdecon.forecasting.calibration import Calibration
from bigdecon.forecasting.stopwatch import Stopwatch, computing_threads
from bigdecon.reporting.box_tasks import Pairing, examine_box, look_at_box
from bigdecon.reporting.measuring import BUDGET_SECONDS
from bigdecon.reporting.samples import SIDES, boxes_of_place, repeated_boxes, report_places, sample_boxes
from bigdecon.running.planning import RunPlan
from bigdecon.running.workforce import WorkersPlanned

__all__ = ["report_seconds", "time_box"]

PAGE_SECONDS = 1.5
"""Pictures, page and PNG of a result with one channel, on one core; a section more hardly adds to it."""
HALVES = 2


def time_box(psf: NDArray[np.floating], threads: int | None = None) -> float:
    """Time what a report measures of a box, on noise, as its cost does not depend on the values.

    Parameters
    ----------
    psf : of the run, ([z,] y, x)
    threads : CPU threads to compute with; None leaves torch's setting

    Returns
    -------
    seconds for a voxel
    """
    if threads:
        torch.set_num_threads(threads)
    side = SIDES[psf.ndim]
    _measure_box(psf, side // 4)  # loads what is needed
    watch = Stopwatch(computing_threads("cpu", threads))
    _measure_box(psf, side)
    voxels: int = side**psf.ndim
    return watch.lap().own / voxels


def _measure_box(psf: NDArray[np.floating], side: int) -> None:
    """Measure a box of noise, taken for the result as well, with the PSF's radius about it."""
    margins = [n // 2 for n in psf.shape]
    shape = [side + 2 * margin for margin in margins]
    noise = np.random.default_rng(0).normal(100, 10, shape).astype(np.float32)
    pair = Pairing(noise, noise, psf, background=0.0)
    box = tuple(slice(margin, margin + side) for margin in margins)
    look = look_at_box(pair, box)
    assert look is not None
    examine_box(pair, box, look.noise)


def report_seconds(
    plan: RunPlan, workers: WorkersPlanned, measured: Calibration, voxel_seconds: float
) -> float:
    """Add up the time of a run's report.

    Parameters
    ----------
    plan, workers : of the run, and who will do it
    measured : how long its blocks take
    voxel_seconds : from `time_box`
    """
    shape = plan.volume.spatial_shape
    places = report_places(plan.volume.n_channels, plan.volume.n_timepoints)
    boxes = sample_boxes(shape, boxes_of_place(len(places))).boxes
    at_once = min(workers.count, len(boxes))
    reading = 2 * measured.read_seconds / math.prod(plan.grid.largest_block)  # image and result
    looking = len(places) * len(boxes) * _voxels(boxes[0]) * (voxel_seconds + reading) / at_once
    again = repeated_boxes(shape, plan.grid.halo, boxes[0])
    share = _voxels(grow(boxes[len(boxes) // 2], plan.grid.halo, shape)) / math.prod(plan.grid.largest_block)
    channels = len({channel for channel, _ in places})
    repeating = channels * again * HALVES * share * measured.block_seconds / min(workers.count, again)
    return min(looking, BUDGET_SECONDS) + repeating + PAGE_SECONDS


def _voxels(box: Sequence[slice]) -> int:
    return math.prod(part.stop - part.start for part in box)
