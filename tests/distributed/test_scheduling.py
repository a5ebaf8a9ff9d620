"""Tasks in flight: few at a time, failures told apart, nothing left behind."""

from __future__ import annotations

import os
import signal
import threading
import time

import dask
import dask.array as da
import pytest
from distributed import Client

from bigdecon.distributed.cluster import connect
from bigdecon.distributed.scheduling import Call, Task, run_tasks
from bigdecon.errors import OptionError, ReadError, RunError, SchedulerLostError, WriteError
from tests.conftest import workers_forked


def double(number: int) -> int:
    return 2 * number


def fail(error: Exception) -> None:
    raise error


def fail_at_first(path, error: Exception) -> str:
    """Fail as long as fewer than two marks lie in a folder."""
    marks = len(list(path.iterdir()))
    (path / str(marks)).touch()
    if marks < 2:
        raise error
    return "at last"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_first(path) -> str:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return "survived"
    die()
    return "never"


def calls(count: int, function, *arguments) -> list[Task[int]]:
    return [Task(index, lambda: Call(function, arguments), f"call-{index}") for index in range(count)]


def forgotten(client: Client) -> bool:
    """Whether the scheduler forgets all tasks, soon."""
    deadline = time.monotonic() + 60
    while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_every_result_comes_once_with_its_key(connection):
    results = {}
    tasks = (Task(("region", i), lambda i=i: Call(double, (i,)), f"double-{i}") for i in range(50))
    assert run_tasks(connection.client, tasks, in_flight=4, on_done=results.__setitem__) == 50
    assert results == {("region", i): 2 * i for i in range(50)}
    assert forgotten(connection.client)


def test_no_tasks_are_no_trouble(connection):
    assert run_tasks(connection.client, [], in_flight=1) == 0
    with pytest.raises(OptionError, match="at least 1"):
        run_tasks(connection.client, [], in_flight=0)


def test_tasks_are_built_only_when_their_turn_comes(connection):
    built, done, most = [], [], 0

    def tasks():
        for i in range(20):
            yield Task(i, lambda i=i: built.append(i) or Call(double, (i,)))

    def on_done(key, result):
        nonlocal most
        done.append(key)
        most = max(most, len(built) - len(done) + 1)

    run_tasks(connection.client, tasks(), in_flight=3, on_done=on_done)
    assert len(done) == 20
    assert most <= 3


def test_how_many_are_in_flight_may_change(connection):
    """First two, then as many as there are, then none but what has begun."""
    launched, most = [], [2]

    def tasks():
        for number in range(12):
            launched.append(number)
            yield Task(number, lambda number=number: Call(double, (number,)))

    seen = []

    def on_done(key, _):
        seen.append(len(launched) - len(seen))
        most[0] = 7 if len(seen) == 3 else most[0]

    assert run_tasks(connection.client, tasks(), in_flight=lambda: most[0], on_done=on_done) == 12
    assert max(seen[:3]) == 2
    assert max(seen) == 7


def test_collections_are_computed(connection):
    results = {}
    tasks = [
        Task("delayed", lambda: dask.delayed(double)(21)),
        Task("array", lambda: da.ones((4, 6), chunks=(2, 3)).sum()),
    ]
    run_tasks(connection.client, tasks, in_flight=2, on_done=results.__setitem__)
    assert results == {"delayed": 42, "array": 24}
    assert forgotten(connection.client)


def test_what_is_no_work_is_refused(connection):
    with pytest.raises(TypeError, match="built as int"):
        run_tasks(connection.client, [Task(0, lambda: 7)], in_flight=1)


@pytest.mark.parametrize("as_graph", [False, True])
def test_a_passing_failure_is_tried_again(connection, tmp_path, as_graph):
    results = []
    arguments = (tmp_path, OSError("stale file handle"))

    def build():
        return (
            dask.delayed(fail_at_first, pure=True)(*arguments) if as_graph else Call(fail_at_first, arguments)
        )

    run_tasks(
        connection.client, [Task(0, build)], in_flight=1, on_done=lambda _, result: results.append(result)
    )
    assert results == ["at last"]


def test_a_lasting_failure_is_told_in_a_sentence(connection):
    with pytest.raises(
        RunError, match="task call-0 failed again and again, at last with OSError: broken disk"
    ):
        run_tasks(connection.client, calls(9, fail, OSError("broken disk")), in_flight=3, retries=1)
    assert forgotten(connection.client)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_want_of_memory_names_the_remedy(connection, error):
    task = Task(0, lambda: Call(fail, (error,)), "solve", remedy="buy some")
    with pytest.raises(RunError, match="a worker's memory does not suffice for the task solve; buy some"):
        run_tasks(connection.client, [task], in_flight=1, retries=1)


def test_tasks_whose_workers_are_gone_do_not_wait_for_ever(connection):
    task = Task(0, lambda: Call(int), workers=("tcp://127.0.0.1:9",))
    with pytest.raises(SchedulerLostError, match="no workers for this"):
        run_tasks(connection.client, [task], in_flight=1, patience_seconds=1)


def test_errors_of_our_own_are_final(connection, tmp_path):
    error = WriteError("the disk is full")
    with pytest.raises(WriteError, match="the disk is full"):
        run_tasks(connection.client, calls(1, fail_at_first, tmp_path, error), in_flight=1)
    assert len(list(tmp_path.iterdir())) == 1


def test_errors_of_reading_are_tried_again_and_then_final(connection, tmp_path):
    error = ReadError("chunk (1, 2) is torn")
    assert run_tasks(connection.client, calls(1, fail_at_first, tmp_path, error), in_flight=1) == 1
    with pytest.raises(ReadError, match=r"chunk \(1, 2\) is torn"):
        run_tasks(connection.client, calls(1, fail, error), in_flight=1)


def test_an_error_while_noting_a_result_stops_the_walk(connection):
    def on_done(key, result):
        raise RunError("the disk is full")

    with pytest.raises(RunError, match="disk is full"):
        run_tasks(connection.client, calls(5, double, 1), in_flight=2, on_done=on_done)
    assert forgotten(connection.client)


def test_ctrl_c_cancels_and_passes_on(connection):
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_tasks(connection.client, calls(50, time.sleep, 0.5), in_flight=4)
    assert time.monotonic() - began < 2
    timer.join()
    assert forgotten(connection.client)


def test_a_dead_worker_is_replaced(connection, tmp_path):
    results = {}
    run_tasks(
        connection.client,
        [*calls(5, double, 4), Task("dies", lambda: Call(die_at_first, (tmp_path / "mark",)))],
        in_flight=3,
        on_done=results.__setitem__,
    )
    assert results == dict.fromkeys(range(5), 8) | {"dies": "survived"}


@pytest.mark.slow
def test_what_kills_its_workers_is_tried_once_more_where_it_can_be_milder(connection):
    milder, results = [False], []

    def give_in() -> bool:
        milder[0] = True
        return True

    def build() -> Call:
        return Call(double, (4,)) if milder[0] else Call(die)

    task = Task(0, build, "first-too-much", can_be_milder=give_in)
    run_tasks(connection.client, [task], in_flight=1, on_done=lambda _, result: results.append(result))
    assert results == [8]


@pytest.mark.slow
def test_a_task_that_kills_its_workers_is_named(connection):
    with pytest.raises(RunError, match="workers died one after the other in the task call-0"):
        run_tasks(connection.client, calls(1, die), in_flight=1)


@pytest.mark.slow
def test_a_cluster_without_workers_is_given_up():
    with workers_forked(), connect(workers=1, threads=1, dashboard_address="none", device="cpu") as opened:
        client = opened.client
        client.retire_workers(list(client.nthreads()))
        with pytest.raises(SchedulerLostError, match="has had no workers for this"):
            run_tasks(client, calls(1, double, 1), in_flight=1, patience_seconds=1)
