"""Events: what a worker publishes is what the client hears."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigdecon.distributed.progress import (
    TOPIC,
    Message,
    RegionDone,
    StageFinished,
    StageStarted,
    TrainingProgress,
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
