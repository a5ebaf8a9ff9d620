"""The ledger: entries are whole or absent, and survive whatever happens to their neighbours."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigdecon.deconvolution.ledger import Extent, Ledger, RegionKey, RegionRecord
from bigdecon.errors import OutputError, WriteError
from bigdecon.storage import places
from bigdecon.storage.durable import TEMPORARY, write_durably
from bigdecon.storage.places import Place

RECORD = RegionRecord(
    {Extent((0, 0), (64, 64)): "ab" * 16}, clipped=3, minimum=-1.5, maximum=2e4, seconds=0.25
)


def key(index: int) -> RegionKey:
    return RegionKey(0, 0, 1, (index, 0, 512), (index + 1, 64, 1024))


def entry_place(ledger: Ledger, which: RegionKey) -> Place:
    return next(place for place in places.files_below(ledger.folder) if place.name == f"{which.name}.json")


def test_what_was_marked_is_read(place):
    ledger = Ledger(place / "ledger")
    assert ledger.read() == {}
    assert not ledger.finished(key(0))
    for index in range(5):
        ledger.mark(key(index), RECORD)
    assert ledger.read() == {key(index): RECORD for index in range(5)}
    assert ledger.finished(key(3))
    assert not ledger.finished(key(5))


axis = st.integers(0, 10**6)
boxes = st.lists(st.tuples(axis, axis), min_size=1, max_size=3)


@given(boxes, boxes, st.integers(0, 9), st.integers(0, 99), st.integers(0, 9))
def test_names_are_equal_only_for_equal_regions(first, second, level, timepoint, channel):
    one, two = (
        RegionKey.from_box(tuple(slice(a, a + b) for a, b in box), level=level, timepoint=timepoint)
        for box in (first, second)
    )
    assert (one.name == two.name) == (one == two)
    assert RegionKey.from_box(one.box, level=level, timepoint=timepoint) == one
    assert one.name != one._replace(channel=channel + 1).name


def test_not_a_number_statistics_survive(place):
    ledger = Ledger(place)
    ledger.mark(key(0), RegionRecord({}, 0, math.inf, -math.inf, 0.0))
    assert ledger.read()[key(0)].minimum == math.inf


@pytest.mark.parametrize("length", range(0, 200, 13))
def test_a_torn_entry_counts_as_unfinished(place, length):
    ledger = Ledger(place)
    ledger.mark(key(0), RECORD)
    ledger.mark(key(1), RECORD)
    torn = entry_place(ledger, key(0))
    places.write(torn, places.read(torn)[:length])
    scan = ledger.scan()
    assert set(scan.finished) == {key(1)}
    assert [ignored.path for ignored in scan.ignored] == [torn]
    assert not ledger.finished(key(0))
    ledger.mark(key(0), RECORD)
    assert ledger.finished(key(0))


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 300,
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"format": "bigdecon-ledger"}',
        b'{"format": "bigdecon-ledger", "version": 1, "region": 7}',
        b"[" * 100_000,
    ],
)
def test_damaged_entries_are_listed_and_never_crash(place, content):
    ledger = Ledger(place)
    ledger.mark(key(0), RECORD)
    places.write(entry_place(ledger, key(0)), content)
    scan = ledger.scan()
    assert scan.finished == {}
    assert len(scan.ignored) == 1
    assert not ledger.finished(key(0))


WRONG = {
    "level is a text": {"region": {"level": "0"}},
    "level is true": {"region": {"level": False}},
    "level negative": {"region": {"level": -1}},
    "start of texts": {"region": {"start": ["0", "0", "512"]}},
    "start of floats": {"region": {"start": [0.0, 0.0, 512.0]}},
    "start longer": {"region": {"start": [0, 0, 512, 0]}},
    "start is a text": {"region": {"start": "000"}},
    "empty box": {"region": {"stop": [0, 0, 512]}},
    "digests are numbers": {"digests": [1]},
    "digests of lists": {"digests": [[[[0]], [[1]], "a"]]},
    "a digest is a number": {"digests": [[[0], [1], 5]]},
    "clipped negative": {"clipped": -1},
    "clipped is a float": {"clipped": 0.5},
    "minimum is a text": {"minimum": "0"},
    "maximum is null": {"maximum": None},
    "maximum too large": {"maximum": 10**400},
    "faults are numbers": {"faults": [1]},
    "skipped is a text": {"skipped": "1"},
    "version is true": {"version": True},
}


@pytest.mark.parametrize("case", WRONG)
def test_an_entry_of_other_types_is_ignored(tmp_path, case):
    ledger = Ledger(tmp_path)
    ledger.mark(key(0), RECORD)
    path = entry_place(ledger, key(0))
    content = json.loads(path.read_text())
    for name, value in WRONG[case].items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(content))
    scan = ledger.scan()
    assert (scan.finished, scan.faulty) == ({}, {})
    assert [ignored.reason for ignored in scan.ignored] == ["torn or damaged"]


@pytest.mark.timeout(30)
def test_a_pipe_in_place_of_an_entry_is_not_waited_for(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.mark(key(0), RECORD)
    path = entry_place(ledger, key(0))
    path.unlink()
    os.mkfifo(path)
    assert len(ledger.scan().ignored) == 1


def test_an_entry_under_another_name_is_ignored(place):
    ledger = Ledger(place)
    ledger.mark(key(0), RECORD)
    path = entry_place(ledger, key(0))
    places.write(path.parent / f"{key(1).name}.json", places.read(path))
    places.delete(path)
    assert ledger.read() == {}


def test_a_folder_in_place_of_an_entry_is_ignored(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.mark(key(0), RECORD)
    path = entry_place(ledger, key(0))
    path.unlink()
    path.mkdir()
    assert len(ledger.scan().ignored) == 1


def test_another_version_is_refused_by_name(place):
    ledger = Ledger(place)
    ledger.mark(key(0), RECORD)
    path = entry_place(ledger, key(0))
    places.write(path, json.dumps(json.loads(places.read(path)) | {"version": 9}).encode())
    for look in (ledger.read, lambda: ledger.finished(key(0))):
        with pytest.raises(OutputError, match="version 9 of the ledger's format"):
            look()


def test_temporary_files_are_never_read_and_can_be_swept(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.mark(key(0), RECORD)
    shelf = entry_place(ledger, key(0)).parent
    (shelf / f"{TEMPORARY}half").write_bytes(b"{")
    assert ledger.scan().ignored == ()
    assert ledger.sweep() == 1
    assert set(ledger.read()) == {key(0)}


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_durably(path, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(WriteError, match="No space left on device"):
        Ledger(tmp_path / "ledger").mark(key(0), RECORD)


def test_a_file_written_in_pieces_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "file"
    write_durably(path, iter([b"one", b"", b"x" * 10**5]))
    assert path.read_bytes() == b"one" + b"x" * 10**5

    def failing():
        yield b"y" * 10**5
        raise ValueError("no such luck")

    with pytest.raises(ValueError, match="no such luck"):
        write_durably(path, failing())
    assert path.read_bytes() == b"one" + b"x" * 10**5
    assert list(tmp_path.iterdir()) == [path]


MANY = """
import sys
from bigdecon.storage.places import as_place
from bigdecon.deconvolution.ledger import Ledger, RegionKey, RegionRecord
for index in range(int(sys.argv[2]), int(sys.argv[2]) + 20):
    start = index % 25
    key = RegionKey(0, 0, 0, (start,), (start + 1,))
    Ledger(as_place(sys.argv[1])).mark(key, RegionRecord({}, 0, 0.0, 1.0, 0.0))
"""


def test_many_processes_may_mark_at_once(place):
    first, second = (
        subprocess.Popen([sys.executable, "-c", MANY, str(place), begin]) for begin in ("0", "5")
    )
    assert (first.wait(), second.wait()) == (0, 0)
    scan = Ledger(place).scan()
    assert {key.start[0] for key in scan.finished} == set(range(25))
    assert scan.ignored == ()


KILLED = """
import sys
from bigdecon.storage.places import as_place
from bigdecon.deconvolution.ledger import Ledger, RegionKey, RegionRecord
index = 0
while True:
    key = RegionKey(0, 0, 0, (index,), (index + 1,))
    Ledger(as_place(sys.argv[1])).mark(key, RegionRecord({}, 0, 0.0, 1.0, 0.0))
    print(index, flush=True)
    index += 1
"""


def test_sigkill_loses_nothing_that_was_marked(place):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(place)], stdout=subprocess.PIPE, text=True)
    with process:
        for line in process.stdout:
            if int(line) > 30:
                process.send_signal(signal.SIGKILL)
                break
        last = max([int(line), *map(int, process.stdout)])
    scan = Ledger(place).scan()
    assert {key.start[0] for key in scan.finished} >= set(range(last + 1))
    assert scan.ignored == ()


@pytest.mark.slow
def test_twenty_thousand_entries_are_read_in_seconds(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.mark(key(0), RECORD)
    text = entry_place(ledger, key(0)).read_text()
    for index in range(20_000):
        path = ledger._path(key(index))
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            text.replace("[0,0,512],", f"[{index},0,512],").replace("[1,64,", f"[{index + 1},64,")
        )
    began = time.monotonic()
    assert len(ledger.read()) == 20_000
    seconds = time.monotonic() - began
    print(f"20000 entries in {seconds:.1f} s")
    assert seconds < 10
