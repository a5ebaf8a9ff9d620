"""Boxes that share chunks, measured together in one worker process: each chunk is decoded once.

read image and result around all boxes ──> look at each ──> noise of each ──> residual of each
                                                                      └─────> checks of the best one
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.diagnosis.findings import Finding
from bigdecon.diagnosis.shared_reads import decoded_bytes, groups_by_chunk, read_boxes
from bigdecon.errors import ReadError
from bigdecon.evaluation.noise import NoiseModel
from bigdecon.reporting.box_checks import check_box
from bigdecon.reporting.box_tasks import Look, Measured, Pairing, ResidualPlanes, examine_box, look_at_box
from bigdecon.volume import Box, Stack

__all__ = ["Examined", "GroupTask", "cost_of", "examine_group", "group_boxes", "typical_noise"]

MOST_VOXELS = 2**24
"""Of the boxes of one group; a worker holds some twenty bytes for each."""


@dataclass(frozen=True, eq=False)
class GroupTask:
    """What is to be measured; pickles to a small description.

    Attributes
    ----------
    image, result : stacks of one shape
    pair : the same with PSF and background; its own stacks are not read
    boxes : to be measured
    noise : for boxes that do not tell theirs; None takes that of others in the group
    voxel_size_um : along the spatial axes; None where unknown
    inputs : whether image and PSF are checked as well; a run has done that when it began
    partial : whether boxes with empty places, as outside a mask, are left out
    """

    image: Stack
    result: Stack
    pair: Pairing
    boxes: tuple[Box, ...]
    noise: NoiseModel | None
    voxel_size_um: tuple[float, ...] | None
    inputs: bool
    partial: bool


class Examined(NamedTuple):
    """What was found out about a box.

    `noise` and `measured` are None where the box does not tell its noise, `planes` where neither contrast
    nor misfit is the largest of its group; `findings` are those of the box with most contrast.
    """

    look: Look
    noise: NoiseModel | None
    measured: Measured | None
    planes: ResidualPlanes | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True, eq=False)
class _Held:
    """Voxels of a part of a stack, addressed as in the whole."""

    data: NDArray[Any] | None
    part: Box
    shape: tuple[int, ...]

    def __getitem__(self, box: Box, /) -> NDArray[Any]:
        if self.data is None:
            raise ReadError("this part cannot be read.")
        return self.data[
            tuple(slice(b.start - p.start, b.stop - p.start) for b, p in zip(box, self.part, strict=True))
        ]


def group_boxes(pair: Pairing, image: Stack, boxes: Sequence[Box]) -> list[list[int]]:
    """Say which boxes are measured together: positions in `boxes`, group by group."""
    return groups_by_chunk(image, [pair.around(box) for box in boxes], MOST_VOXELS)


def cost_of(pair: Pairing, image: Stack, result: Stack, boxes: Sequence[Box]) -> int:
    """Give what is decoded to measure boxes, in bytes."""
    around = [pair.around(box) for box in boxes]
    groups = group_boxes(pair, image, boxes)
    return sum(
        decoded_bytes([(stack, around[i]) for i in group for stack in (image, result)]) for group in groups
    )


def typical_noise(looks: Sequence[Look], background: float) -> NoiseModel | None:
    """Give the noise that stands in where a box does not tell its own: it is dark; None if all are."""
    known = [look.noise for look in looks if is_known(look.noise)]
    if not known:
        return None
    gain, variance = (float(np.median([getattr(m, name) for m in known])) for name in ("gain", "variance"))
    return NoiseModel(gain, variance, background)


def is_known(noise: NoiseModel) -> bool:
    """Whether a box told its noise."""
    return math.isfinite(noise.gain + noise.variance)


def examine_group(task: GroupTask) -> list[Examined | None]:
    """Measure boxes, in a worker process; None for each that cannot be read or holds nothing."""
    pairs = _read(task)
    looks: dict[int, Look] = {}
    for i, (pair, box) in enumerate(zip(pairs, task.boxes, strict=True)):
        look = look_at_box(pair, box)
        if look is not None and not (task.partial and look.empty):
            looks[i] = look
    typical = task.noise or typical_noise(list(looks.values()), task.pair.background)
    noises = {i: look.noise if is_known(look.noise) else typical for i, look in looks.items()}
    found = {
        i: (noise, examine_box(pairs[i], task.boxes[i], noise, task.voxel_size_um))
        for i, noise in noises.items()
        if noise is not None
    }
    return [
        _examined(task, pairs[i], i, looks, found) if i in looks else None for i in range(len(task.boxes))
    ]


def _read(task: GroupTask) -> list[Pairing]:
    around = [task.pair.around(box) for box in task.boxes]
    stacks = [(stack.shape, read_boxes(stack, around)) for stack in (task.image, task.result)]
    held = [
        [_Held(data, part, shape) for data, part in zip(read, around, strict=True)] for shape, read in stacks
    ]
    return [replace(task.pair, image=image, result=result) for image, result in zip(*held, strict=True)]


def _examined(
    task: GroupTask,
    pair: Pairing,
    i: int,
    looks: Mapping[int, Look],
    found: Mapping[int, tuple[NoiseModel, tuple[Measured, ResidualPlanes] | None]],
) -> Examined:
    look, (noise, both) = looks[i], found.get(i, (None, None))
    best = max(looks, key=lambda j: looks[j].contrast)
    worst = max(found, key=lambda j: _misfit(found[j][1]), default=None)
    planes: ResidualPlanes | None = None
    findings: tuple[Finding, ...] = ()
    if both is not None and i in (best, worst):
        # The whole residual would be too much to send, and is not shown.
        whole = replace(both[1].whole, normalised=np.zeros((0,) * both[1].whole.normalised.ndim))
        before, after, xy, xz = (_own(plane) for plane in both[1][:4])
        planes = ResidualPlanes(before, after, xy, xz, whole)
    if noise is not None and i == best:
        checks = check_box(pair, task.boxes[i], noise, look.correlation, task.inputs)
        findings = tuple(checks)
    return Examined(look, noise, both and both[0], planes, findings)


def _own(plane: Any) -> Any:
    return None if plane is None else np.array(plane)


def _misfit(both: tuple[Measured, ResidualPlanes] | None) -> float:
    chi_square = both[0].chi_square if both else math.nan
    return abs(math.log(chi_square)) if math.isfinite(chi_square) and chi_square > 0 else -1.0
