"""What the page of a run remembers: true counts, whatever the order, in bounded memory."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from dask.utils import key_split
from distributed.utils import color_of, palette
from hypothesis import given
from hypothesis import strategies as st

from bigdecon.block_names import BUNDLE, COLLECT, DECONVOLVE, BlockPlace, block_key, read_block_key
from bigdecon.distributed.progress import (
    ChoosingProgress,
    Message,
    RegionDone,
    StageFinished,
    StageStarted,
    TrainingProgress,
)
from bigdecon.distributed.run_state import (
    CURVE_POINTS,
    MAP_CELLS,
    MESSAGES,
    RECENT,
    BlockMap,
    MapOutline,
    RunState,
    Speeds,
)

RUN = "ab12"
STAGES = ("train", DECONVOLVE, "write-region", "coarser-level")
starts = st.integers(0, 10**9)


def outline(blocks=(2, 3, 4), side=10, stacks=1):
    return MapOutline(RUN, tuple(tuple(range(0, n * side + 1, side)) for n in blocks), stacks, (0.2, 0.1))


def places(drawn):
    starts = product(*(cuts[:-1] for cuts in drawn.cuts))
    return [BlockPlace(0, 0, start) for start in starts]


# --- names ---------------------------------------------------------------------------------------


@given(
    st.sampled_from([DECONVOLVE, COLLECT]),
    st.tuples(starts, starts),
    st.lists(starts, min_size=2, max_size=3),
)
def test_the_name_of_a_task_tells_its_block(kind, stack, start):
    key = block_key(kind, *stack, start, RUN)
    assert read_block_key(key, RUN) == BlockPlace(*stack, tuple(start))
    assert read_block_key(key, "ab13") is None
    assert key_split(key) == kind
    assert key != block_key(kind, *stack, start, RUN)


@given(st.tuples(starts, starts), st.lists(st.tuples(starts, starts), min_size=2, max_size=3))
def test_the_name_of_a_bundle_tells_its_box(stack, box):
    start, stop = zip(*box, strict=True)
    key = block_key(BUNDLE, *stack, start, RUN, stop)
    assert read_block_key(key, RUN) == BlockPlace(*stack, start, stop)
    assert read_block_key(key, "ab13") is None
    assert key_split(key) == BUNDLE


@pytest.mark.parametrize("key", ["", "deconvolve-block", "deconvolve-block-t0", "sum-t0-c0-y1-x2-ab12-"])
def test_other_tasks_are_no_blocks(key):
    assert read_block_key(key, RUN) is None


def test_the_stages_have_colours_that_are_told_apart():
    positions = [palette.index(color_of(name)) for name in STAGES]
    assert positions == sorted(positions)  # the later, the brighter
    assert min(np.diff(positions)) >= 2


# --- the map -------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [(1, 1), (3, 4), (2, 3, 4), (5, 100, 7), (1, 64, 200)])
def test_every_block_has_a_cell(blocks):
    drawn = BlockMap(outline(blocks, stacks=2))
    assert drawn.total.sum() == 2 * math.prod(blocks)
    assert drawn.total.shape == tuple(min(n, MAP_CELLS) for n in blocks[-2:])
    for edges, cuts, cells in zip(drawn.edges, drawn.outline.cuts[-2:], drawn.total.shape, strict=True):
        assert len(edges) == cells + 1
        assert (edges[0], edges[-1]) == (cuts[0], cuts[-1])
        assert set(edges) <= set(cuts)


@given(st.permutations(places(outline())), st.integers(0, 24))
def test_blocks_count_once_in_any_order(order, count):
    drawn = BlockMap(outline())
    for place in order[:count]:
        drawn.began(place)
        drawn.began(place)
    assert drawn.flying().sum() == count
    for place in order[:count]:
        drawn.ended(place, done=True)
        drawn.ended(place, done=True)
    assert drawn.flying().sum() == 0
    assert drawn.done().sum() == count


def test_a_finished_region_takes_the_place_of_its_blocks():
    drawn = BlockMap(outline((2, 2, 2)))
    for place in places(drawn.outline):
        drawn.began(place)
    for place in places(drawn.outline)[:5]:
        drawn.ended(place, done=True)
    drawn.enter((0, 0, 0), (20, 10, 20), 0, 0, [(10, 0, 10)])
    assert drawn.done().tolist() == [[2, 2], [1, 1]]
    assert drawn.flying().tolist() == [[0, 0], [1, 1]]
    assert drawn.missing.tolist() == [[0, 1], [0, 0]]


def test_a_bundle_is_all_of_its_blocks():
    drawn = BlockMap(outline((2, 4, 5)))
    box = BlockPlace(0, 0, (10, 0, 20), (20, 20, 50))  # a shard at the edge
    drawn.began(box)
    assert drawn.flying().tolist() == [[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0] * 5, [0] * 5]
    assert drawn.voxels(box) == 10 * 20 * 30
    assert drawn.voxels(BlockPlace(0, 0, (10, 0, 20))) == 10**3
    drawn.ended(box, done=False)
    assert drawn.flying().sum() == drawn.done().sum() == 0
    drawn.began(box)
    drawn.ended(box, done=True)
    drawn.ended(BlockPlace(0, 0, (10, 10, 40)), done=True)  # again, block by block
    assert (drawn.flying().sum(), drawn.done().sum()) == (0, 6)
    drawn.enter((0, 0, 0), (20, 40, 50), 0, 0, [])
    assert drawn.done().sum() == 40


def test_a_region_of_one_channel_leaves_the_other_alone():
    drawn = BlockMap(outline((1, 1, 1), stacks=2))
    for channel in (0, 1):
        drawn.began(BlockPlace(0, channel, (0, 0, 0)))
    drawn.enter((0, 0, 0), (10, 10, 10), 0, 1, [])
    assert drawn.flying().sum() == 1
    assert drawn.done().sum() == 1


def test_a_block_that_a_worker_loses_is_to_be_done_again():
    drawn = BlockMap(outline())
    place = places(drawn.outline)[0]
    drawn.began(place)
    drawn.ended(place, done=False)
    assert (drawn.flying().sum(), drawn.done().sum()) == (0, 0)


# --- the rest ------------------------------------------------------------------------------------


def test_the_speed_is_that_of_the_last_blocks():
    speeds = Speeds()
    for block in range(100):
        speeds.add("fast", 1000, block * 0.5, block * 0.5 + 0.5)
        speeds.add("slower with time", 1000, block**2, (block + 1) ** 2)
    speeds.add("one block", 600, 10, 12)
    now = speeds.now()
    assert now["fast"] == pytest.approx(2000)
    assert now["slower with time"] == pytest.approx(RECENT * 1000 / (100**2 - (100 - RECENT) ** 2))
    assert now["one block"] == pytest.approx(300)
    speeds.forget("fast")
    assert "fast" not in speeds.now()


def test_memory_is_bounded_and_the_last_step_is_kept():
    state = RunState("out")
    state.tell(StageStarted("train", 10**5))
    for step in range(1, 10**4 + 1):
        state.tell(TrainingProgress(step, 10**4, 1 / step))
        state.tell(Message(f"{step}"))
    assert CURVE_POINTS / 3 < len(state.curve.points) <= CURVE_POINTS
    assert state.curve.points[-1][0] == 10**4
    assert len(state.messages) == MESSAGES
    steps = [step for step, _, _ in state.curve.points]
    assert steps == sorted(set(steps))


def test_the_time_left_comes_from_blocks_while_there_are_blocks():
    state = RunState("out")
    state.tell(StageStarted("deconvolve", 4))
    state.show_map(outline((1, 2, 2)))
    state.finish_regions([((0, 0, 0), (10, 10, 20), 0, 0, [])], earlier=True)
    assert state.progress() == (0.5, None)  # nothing of this run yet to judge by
    state.block_began(BlockPlace(0, 0, (0, 10, 0)))
    state.block_ended(BlockPlace(0, 0, (0, 10, 0)), done=True, worker="w", began=0, ended=1)
    part, left = state.progress()
    assert part == 0.75
    assert left >= 0
    assert state.speeds.now() == {"w": 1000}
    state.tell(StageFinished("deconvolve", 1.0))
    assert state.progress() == (1.0, None)


def test_regions_of_a_run_without_a_map_are_told_by_events():
    state = RunState("out")
    state.finish_regions([((0,), (1,), 0, 0, [])], earlier=False)
    state.tell(StageStarted("level 1", 4))
    state.tell(RegionDone(1, 4, 100, 12.0))
    part, left = state.progress()
    assert part == 0.25
    assert 11 < left <= 12


def test_a_choice_of_settings_is_a_stage():
    state = RunState("x")
    state.tell(StageStarted("choose settings", 14))
    state.tell(ChoosingProgress(3, 12, "background 97, sieve 1", 4, 1, 50.0))
    assert (state.stage, state.part, state.left_s) == ("choose settings", 0.25, 50.0)
