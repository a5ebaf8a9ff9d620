"""Events: what a worker publishes is what the client hears."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigdecon.distributed import progress
from bigdecon.distributed.progress import (
    TOPIC,
    BlockProgress,
    BlocksRestored,
    Message,
    RegionCounter,
    RegionDone,
    StageFinished,
    StageStarted,
    TrainingProgress,
    count_block,
    from_dict,
    publish,
    subscribe,
    to_dict,
)

numbers = st.floats(allow_nan=False)
events = st.one_of(
    st.builds(StageStarted, name=st.text(), total=st.integers(0)),
    st.builds(TrainingProgress, loss=numbers, held_out_error=st.none() | numbers, seconds_left=numbers),
    st.builds(RegionDone, seconds_left=st.none() | numbers),
    st.builds(BlocksRestored, region=st.text(), blocks=st.integers(0)),
    st.builds(BlockProgress, done=st.integers(0), total=st.integers(0), seconds_left=st.none() | numbers),
    st.builds(Message, text=st.text()),
    st.builds(StageFinished, seconds=numbers),
)


@given(events)
def test_events_survive_json(event):
    assert from_dict(json.loads(json.dumps(to_dict(event)))) == event


@pytest.mark.parametrize(
    "values", [{}, {"event": "Unknown"}, {"event": "Message"}, {"event": "Message", "x": 1}]
)
def test_foreign_events_are_refused(values):
    with pytest.raises(ValueError, match="not an event"):
        from_dict(values)


def test_outside_a_worker_publishing_does_nothing():
    publish(Message("nobody hears"))


def publish_steps(run_id: str, count: int) -> None:
    from distributed import get_worker

    for step in range(count):
        publish(TrainingProgress(step, count, 0.5), run_id)
    get_worker().log_event(TOPIC, {"run": run_id, "bigdecon": {"event": "FromTheFuture"}})
    get_worker().log_event(TOPIC, "anything")


def test_events_arrive_in_order_and_before_the_result(connection):
    for repeat in range(3):
        heard = []
        with subscribe(connection.client, heard.append, "steps"):
            connection.client.submit(publish_steps, "steps", 50, pure=False).result()
            assert [event.step for event in heard] == list(range(50)), repeat


def test_runs_do_not_mix_and_the_end_is_the_end(connection):
    heard = []
    with subscribe(connection.client, heard.append, "mine"):
        connection.client.submit(publish_steps, "other", 3, pure=False).result()
    connection.client.submit(publish_steps, "mine", 3, pure=False).result()
    assert heard == []


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=40),
    st.permutations(range(4)),
)
def test_counted_blocks_never_fall_and_end_at_all(restored, order):
    """Blocks may be restored again after a worker's death, and be told of late."""
    heard = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "TALLY_SECONDS", 0)
        counter = RegionCounter(heard.append, 5, 1, 10, 3, 15)
        for region in range(4):
            counter.begin(str(region), 3)
        for region, blocks in restored:
            counter.restored(str(region), blocks)
        for region in order:
            counter.advance(10, str(region), 3)
            counter.restored(str(region), 2)  # of a task that was done twice
    shown = [event.blocks if isinstance(event, RegionDone) else event.done for event in heard]
    assert shown == sorted(shown)
    assert shown[0] == 3
    assert heard[-1] == RegionDone(5, 5, 50, 0.0, 15, 15)
    assert all(event.seconds_left is None or event.seconds_left >= 0 for event in heard)


def test_regions_without_blocks_are_counted_as_such():
    heard = []
    counter = RegionCounter(heard.append, 2)
    counter.advance(8)
    counter.advance(8)
    assert [(e.done, e.total, e.voxels, e.blocks, e.all_blocks) for e in heard] == [
        (1, 2, 8, 0, 0),
        (2, 2, 16, 0, 0),
    ]
    assert heard[1].seconds_left == 0


def restore_blocks(run_id: str, count: int) -> None:
    for _ in range(count):
        count_block(run_id, "region")


def test_many_blocks_make_few_events(connection):
    heard = []
    with subscribe(connection.client, heard.append, "blocks"):
        connection.client.submit(restore_blocks, "blocks", 10_000, pure=False).result()
    assert 1 <= len(heard) < 100
    assert all(isinstance(event, BlocksRestored) and event.region == "region" for event in heard)
    assert sum(event.blocks for event in heard) <= 10_000
