"""Boxes that share chunks, measured together in one worker process: each chunk is decoded once.

read image and result around all boxes ──> look at each ──> residual of each, of which planes are kept
                                                      └─────> checks of the best one
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bigdecon.diagnosis.findings import Finding
from bigdecon.diagnosis.shared_reads import decoded_bytes, groups_by_chunk, read_boxes
from bigdecon.errors import ReadError
from bigdecon.reporting.box_checks import check_box
from bigdecon.reporting.box_tasks import Look, Measured, Pairing, ResidualPlanes, examine_box, look_at_box
from bigdecon.volume import Box, Stack

__all__ = ["Examined", "GroupTask", "cost_of", "examine_group", "group_boxes"]

MOST_VOXELS = 2**22
"""Of the boxes of one group: a worker holds image and result of all of them, six to twelve bytes a voxel.

What is computed of a box, some hundred bytes a voxel, is held for one box at a time."""


@dataclass(frozen=True, eq=False)
class GroupTask:
    """What is to be measured; pickles to a small description.

    Attributes
    ----------
    image, result : stacks of one shape
    pair : the same with PSF and background; its own stacks are not read
    boxes : to be measured
    voxel_size_um : along the spatial axes; None where unknown
    inputs : whether image and PSF are checked as well; a run has done that when it began
    partial : whether boxes with empty places, as outside a mask, are left out
    """

    image: Stack
    result: Stack
    pair: Pairing
    boxes: tuple[Box, ...]
    voxel_size_um: tuple[float, ...] | None
    inputs: bool
    partial: bool


class Examined(NamedTuple):
    """What was found out about a box.

    `measured` is None where the box cannot be compared, `planes` where neither contrast nor misfit is the
    largest of its group; `findings` are those of the box with most contrast.
    """

    look: Look
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


def examine_group(task: GroupTask) -> list[Examined | None]:
    """Measure boxes, in a worker process; None for each that cannot be read or holds nothing."""
    pairs = _read(task)
    looks: dict[int, Look] = {}
    for i, (pair, box) in enumerate(zip(pairs, task.boxes, strict=True)):
        look = look_at_box(pair, box)
        if look is not None and not (task.partial and look.empty):
            looks[i] = look
    found = {i: _measure(task, pairs[i], task.boxes[i], look) for i, look in looks.items()}
    best = max(looks, key=lambda i: looks[i].contrast, default=None)
    worst = max(found, key=lambda i: _misfit(found[i]), default=None)
    answers: list[Examined | None] = [None] * len(task.boxes)
    for i, look in looks.items():
        measured, planes = found[i] or (None, None)
        findings = _checks(task, pairs[i], task.boxes[i], look) if i == best else ()
        answers[i] = Examined(look, measured, planes if i in (best, worst) else None, findings)
    return answers


def _read(task: GroupTask) -> list[Pairing]:
    around = [task.pair.around(box) for box in task.boxes]
    stacks = [(stack.shape, read_boxes(stack, around)) for stack in (task.image, task.result)]
    held = [
        [_Held(data, part, shape) for data, part in zip(read, around, strict=True)] for shape, read in stacks
    ]
    return [replace(task.pair, image=image, result=result) for image, result in zip(*held, strict=True)]


def _measure(task: GroupTask, pair: Pairing, box: Box, look: Look) -> tuple[Measured, ResidualPlanes] | None:
    """Measure a box, and keep but the planes: whole residuals would fill memory, and messages."""
    both = examine_box(pair, box, look.noise, task.voxel_size_um)
    if both is None:
        return None
    measured, planes = both
    nothing = np.zeros((0,) * len(box))
    whole = replace(planes.whole, normalised=nothing, expected=nothing)
    before, after, xy, xz = (_own(plane) for plane in planes[:4])
    return measured, ResidualPlanes(before, after, xy, xz, whole)


def _checks(task: GroupTask, pair: Pairing, box: Box, look: Look) -> tuple[Finding, ...]:
    return tuple(check_box(pair, box, look.noise, look.correlation, task.inputs))


def _own(plane: Any) -> Any:
    """Copy a view, which would keep all that it is a view of."""
    return None if plane is None else np.array(plane)


def _misfit(both: tuple[Measured, ResidualPlanes] | None) -> float:
    chi_square = both[0].chi_square if both else math.nan
    return abs(math.log(chi_square)) if math.isfinite(chi_square) and chi_square > 0 else -1.0
