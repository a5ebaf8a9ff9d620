"""Reading at a known cost: what is counted is what a real store decodes, and chunks are decoded once."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from bigdecon.diagnosis.shared_reads import ReadingBudget, decoded_bytes, groups_by_chunk, read_boxes
from bigdecon.errors import ReadError
from bigdecon.io.reading import open_volume
from bigdecon.volume import Volume
from tests.decoding import decoded_chunks

SHAPE = (20, 45, 50)
DATA = np.arange(np.prod(SHAPE), dtype="uint16").reshape(SHAPE)


@pytest.fixture
def decoded(monkeypatch):
    """Note the shape and the bytes of every chunk that is decoded."""
    return decoded_chunks(monkeypatch)


def store(path, chunks, data=DATA):
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("0", shape=data.shape, chunks=chunks, dtype=data.dtype)[:] = data
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    scales = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}], "name": "a"}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [scales]}
    return open_volume(path)


boxes_of = st.lists(
    st.tuples(*(st.tuples(st.integers(0, n - 1), st.integers(1, n)) for n in SHAPE)).map(
        lambda parts: tuple(
            slice(start, min(start + extent, n)) for (start, extent), n in zip(parts, SHAPE, strict=True)
        )
    ),
    min_size=1,
    max_size=5,
)


@given(boxes_of, st.tuples(st.integers(1, 25), st.integers(1, 50), st.integers(1, 60)))
def test_boxes_come_as_they_are(boxes, chunks):
    class Chunked:
        shape, dtype = SHAPE, DATA.dtype

        def __init__(self):
            self.chunks, self.read = chunks, []

        def __getitem__(self, box):
            self.read.append(box)
            return DATA[box]

    source = Chunked()
    stack = Volume(source, "zyx").stack()
    read = read_boxes(stack, boxes)
    assert all(np.array_equal(one, DATA[box]) for one, box in zip(read, boxes, strict=True))
    if len(boxes) > 1:  # no two reads are of one chunk
        touched = [tuple(p.start // c for p, c in zip(box, chunks, strict=True)) for box in source.read]
        assert len(touched) == len(set(touched))
        assert len(touched) * np.prod(chunks) * 2 == decoded_bytes([(stack, box) for box in boxes])


@pytest.mark.parametrize("chunks", [(20, 45, 50), (1, 45, 50), (8, 16, 16)])
def test_what_is_counted_is_what_is_decoded(tmp_path, decoded, chunks):
    volume = store(tmp_path / "a.ome.zarr", chunks)
    boxes = [tuple(slice(s, s + 8) for s in at) for at in ((0, 3, 4), (0, 20, 4), (6, 20, 30), (11, 0, 0))]
    for stack in (volume.stack(), volume.crop((slice(1, 20), slice(2, 45), slice(5, 50))).stack()):
        decoded.clear()
        read_boxes(stack, boxes)
        assert sum(size for _, size in decoded) == decoded_bytes([(stack, box) for box in boxes])
    decoded.clear()
    for box in boxes:
        stack[box]
    assert sum(size for _, size in decoded) > decoded_bytes([(stack, box) for box in boxes])


def test_rows_of_a_plain_tiff_cost_rows(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", DATA, photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", DATA, photometric="minisblack", compression="zlib", rowsperstrip=45)
    box = (slice(2, 5), slice(7, 9), slice(0, 5))
    costs = [decoded_bytes([(open_volume(tmp_path / n).stack(), box)]) for n in ("a.tif", "b.tif")]
    assert costs == [3 * 2 * 50 * 2, 3 * 45 * 50 * 2]


def test_a_chunk_that_cannot_be_read_costs_only_the_boxes_in_it():
    class Torn:
        shape, dtype, chunks = SHAPE, DATA.dtype, (10, 45, 50)

        def __getitem__(self, box):
            if box[0].start < 10:
                raise ReadError("torn.")
            return DATA[box]

    stack = Volume(Torn(), "zyx").stack()
    boxes = [(slice(z, z + 5), slice(0, 9), slice(0, 9)) for z in (0, 12, 7)]
    read = read_boxes(stack, boxes)
    assert [one is None for one in read] == [True, False, True]
    assert read_boxes(stack, boxes[:1]) == [None]


@settings(max_examples=50)
@given(boxes_of, st.integers(1, 10**5))
def test_every_box_is_in_one_group_and_groups_are_small(boxes, most):
    stack = Volume.from_array(DATA).stack()
    groups = groups_by_chunk(stack, boxes, most)
    assert sorted(i for group in groups for i in group) == list(range(len(boxes)))
    sizes = [[int(np.prod([p.stop - p.start for p in boxes[i]])) for i in group] for group in groups]
    assert all(len(group) == 1 or sum(group) <= most for group in sizes)


def test_a_budget_is_spent_once_and_in_time():
    now = [0.0]
    budget = ReadingBudget(100, seconds=10, clock=lambda: now[0])
    part = budget.part(0.5)
    assert (part.spend(30), part.spend(30), part.left, budget.left) == (True, False, 20, 50)
    budget.give_back(part)
    assert (budget.spend(70), budget.spend(1)) == (True, False)
    budget = ReadingBudget(100, seconds=10, clock=lambda: now[0])
    part = budget.part(1.0)
    now[0] = 10.0
    assert budget.late
    assert not part.spend(1)
