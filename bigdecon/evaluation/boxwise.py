"""Scores of images that are larger than memory: the scores of `metrics.py`, box by box.

```text
 result, truth --reading 1--> moments: means, fit, extremes     --> RMSE, PSNR, the fit
       |                        |
       |  with SMI: a copy in temporary files
       |                        |
       +------------reading 2---+--> SSIM, joint histogram      --> SSIM, MI, affine RMSE
                                |
                cosine transform of the copies, in place:
                along y and x in slabs of z, then along z in slabs of y, once for the extremes
                and once for the joint histogram                --> SMI
```

With SMI the images are decoded once and read again from the copies. Without it they are decoded twice,
the second time with the margin of SSIM's window around every box, so that chunks are met more than once.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.errors import OptionError
from bigdecon.evaluation.boxes import Work, box_shape, cut, piece_shape, thread_count, whole
from bigdecon.evaluation.formulas import (
    SAME,
    Moments,
    check_data_range,
    check_finite,
    check_shapes,
    information,
    joint_histogram,
    ssim_values,
    ssim_window,
)
from bigdecon.evaluation.metrics import Evaluation, Row, evaluation_of, peak_of
from bigdecon.evaluation.scratch import scratch_arrays
from bigdecon.evaluation.spectra import spectral_scores
from bigdecon.volume import Box, Crop, Stack, Volume

__all__ = ["evaluate_stacks", "without_border"]

Image = NDArray[Any]


def evaluate_stacks(
    result: Volume | Stack,
    truth: Volume | Stack,
    *,
    data_range: float | None = None,
    box: int | Sequence[int] | None = None,
    smi: bool = True,
    crop_border: int = 0,
    threads: int | None = None,
) -> Evaluation:
    """Score a result of any size against the truth, plain and after an affine fit.

    The scores are those of `bigdecon.evaluation.metrics.evaluate`, whatever the boxes. Memory is bounded by
    boxes and threads, not by the image: about 0.2 GB a thread with the default boxes of float32.
    SMI needs the cosine transform of both images and keeps it in temporary files: 4 bytes a voxel of each
    image, 8 where float32 cannot hold the values. Images of up to 2^24 voxels (`scratch.IN_MEMORY_VOXELS`)
    need no files.

    Parameters
    ----------
    result, truth : images of one shape, (z, y, x) or (y, x), in the same units; of a `Volume` the first
        channel at the first time point
    data_range : what PSNR and SSIM take as the peak; the truth's maximum minus its minimum if None
    box : extent of what is read at once, in voxels, one number for all axes or one an axis;
        by default whole chunks, about 2^23 voxels
    smi : False leaves out the mutual information of the spectra, and needs no temporary files
    crop_border : voxels left out at every side of both images
    threads : boxes in work at a time; up to 4 by default

    Raises
    ------
    VolumeError
        if the shapes differ, a value is not finite (it says where), the truth is constant and no range is
        given, or an axis has two voxels
    OptionError
        if `data_range`, `box`, `crop_border` or `threads` cannot work
    OutputError
        if the disk has too little space for the temporary files
    """
    check_data_range(data_range)
    stacks = [image.stack() if isinstance(image, Volume) else image for image in (result, truth)]
    check_shapes(stacks[0].shape, stacks[1].shape)
    stacks = [without_border(stack, crop_border) for stack in stacks]
    shape = stacks[0].shape
    window = ssim_window(shape)
    work = Work(shape, box_shape(stacks, box), thread_count(threads))
    room = scratch_arrays(shape, [s.dtype for s in stacks], without="leave out SMI (--without-smi)")
    spectral: tuple[float | None, float | None] = None, None
    with room if smi else nullcontext() as copies:
        moments = _first_reading(work, stacks, copies, crop_border)
        peak = peak_of(moments, data_range)
        sums = _second_reading(work, copies or stacks, moments, window, peak)
        if copies is not None:
            spectral = spectral_scores(work, copies, moments)
    plain = Row(moments.squared_error, sums.ssim[0] / sums.windows, spectral[0])
    affine = Row(sums.squared_error, sums.ssim[1] / sums.windows, spectral[1])
    return evaluation_of(moments, peak, information(sums.counts), plain, affine)


def without_border(stack: Stack, border: int) -> Stack:
    """Leave out some voxels at every side of an image; nothing is read.

    Raises
    ------
    OptionError
        if nothing would be left
    """
    if border < 0 or min(stack.shape) <= 2 * border:
        raise OptionError(
            f"leaving out {border} voxels at every side leaves nothing of the shape {stack.shape}."
        )
    if border == 0:
        return stack
    extents = zip(stack.axes, stack.source.shape, strict=True)
    box = tuple(slice(border, n - border) if axis in "zyx" else slice(0, n) for axis, n in extents)
    return Stack(Crop(stack.source, box), stack.axes, stack.timepoint, stack.channel)


def _first_reading(work: Work, stacks: Sequence[Stack], copies: list[Image] | None, border: int) -> Moments:
    """Read all voxels, check them, copy them if wanted, and measure both images."""

    def measure(box: Box) -> Moments:
        images = [stack[box] for stack in stacks]
        corner = [part.start + border for part in box]  # as the voxels are counted in the files
        for name, image in zip(("result", "truth"), images, strict=True):
            check_finite(image, name, corner)
        for copy, image in zip(copies or (), images, strict=False):
            copy[box] = image
        shape = images[0].shape
        pieces = cut(whole(shape), piece_shape(shape))
        return reduce(operator.add, (Moments.of(images[0][p], images[1][p]) for p in pieces))

    return reduce(operator.add, work.each(measure, work.boxes))


@dataclass
class _Sums:
    """What the second reading adds up.

    Attributes
    ----------
    squared_error : sum of squared errors after the fit
    ssim : sum over all windows, plain and after the fit
    windows : number of windows
    counts : joint histogram of the values
    """

    squared_error: float = 0.0
    ssim: tuple[float, float] = (0.0, 0.0)
    windows: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((), np.int64))

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.squared_error + other.squared_error,
            (self.ssim[0] + other.ssim[0], self.ssim[1] + other.ssim[1]),
            self.windows + other.windows,
            self.counts + other.counts,
        )


class _Margin(NamedTuple):
    """How far SSIM's windows reach, along every axis, in an image of this shape."""

    shape: tuple[int, ...]
    reach: tuple[int, ...]

    def centres(self, core: Box) -> Box | None:
        """Give the part of a core where windows lie within the image; None if there is none."""
        inner = tuple(
            slice(max(part.start, r), min(part.stop, n - r))
            for part, r, n in zip(core, self.reach, self.shape, strict=True)
        )
        return inner if all(part.start < part.stop for part in inner) else None

    def around(self, core: Box) -> Box:
        """Add to a core as much as windows need and the image has."""
        return tuple(
            slice(max(0, part.start - r), min(n, part.stop + r))
            for part, r, n in zip(core, self.reach, self.shape, strict=True)
        )


def _second_reading(
    work: Work,
    sources: Sequence[Stack] | Sequence[Image],
    moments: Moments,
    window: tuple[int, ...],
    peak: float,
) -> _Sums:
    """Sum up what needs the fit and the extremes."""
    margin, lines = _Margin(work.shape, tuple(side // 2 for side in window)), (SAME, moments.fit)

    def add_up(box: Box) -> _Sums:
        outer = margin.around(box)
        images = [np.asarray(source[outer]) for source in sources]
        return reduce(operator.add, (one(p, outer, images) for p in cut(box, piece_shape(work.shape))))

    def one(piece: Box, outer: Box, images: list[Image]) -> _Sums:
        sums = _values([_part(image, outer, piece) for image in images], moments)
        centres = margin.centres(piece)
        if centres is not None:
            result, truth = (_part(image, outer, margin.around(centres)) for image in images)
            plain, affine = ssim_values(result, truth, window, peak, lines)
            sums.ssim, sums.windows = (float(plain.sum()), float(affine.sum())), plain.size
        return sums

    return reduce(operator.add, work.each(add_up, work.boxes))


def _values(images: list[Image], moments: Moments) -> _Sums:
    """Sum up what looks at single voxels."""
    result, truth = (image.astype(np.float64) for image in images)
    error = moments.fit.apply(result) - truth
    counts = joint_histogram(result, truth, moments.result_range, moments.truth_range)
    return _Sums(float((error * error).sum()), counts=counts)


def _part(image: Image, outer: Box, inner: Box) -> Image:
    """Give a part of an image that was read as the box `outer`."""
    pairs = zip(inner, outer, strict=True)
    part: Image = image[tuple(slice(i.start - o.start, i.stop - o.start) for i, o in pairs)]
    return part
