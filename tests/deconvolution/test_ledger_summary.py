"""The summary of a ledger in an object store: it spares reads and changes nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bigdecon.deconvolution.ledger import Extent, Ledger, RegionKey, RegionRecord
from bigdecon.storage import places
from bigdecon.storage.places import as_place
from tests.servers import FaultyProxy

RECORD = RegionRecord({Extent((0,), (64,)): "ab" * 16}, clipped=3, minimum=-1.5, maximum=2e4, seconds=0.25)
KEYS = [RegionKey(0, 0, 0, (i,), (i + 1,)) for i in range(6)]


@pytest.fixture
def ledger(s3, s3_server, monkeypatch):
    """Six entries, in the reach of a proxy that counts; a summary is worth it from five reads on."""
    monkeypatch.setattr("bigdecon.deconvolution.ledger_summary.WORTH_IT", 4)
    with FaultyProxy(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        ledger = Ledger(as_place(f"{s3}/ledger"))
        for key in KEYS:
            ledger.mark(key, RECORD)
        yield ledger, proxy


def entries_read(proxy) -> int:
    count = sum(method == "GET" and path.endswith(".json") for method, path in proxy.requests)
    proxy.requests.clear()
    return count


def test_entries_are_read_once(ledger):
    ledger, proxy = ledger
    expected = dict.fromkeys(KEYS, RECORD)
    assert ledger.read() == expected
    assert entries_read(proxy) == 6
    assert ledger.read() == expected
    assert entries_read(proxy) == 0


def test_what_has_changed_since_is_read_again(ledger):
    ledger, proxy = ledger
    ledger.read()
    changed = replace(RECORD, clipped=7)
    ledger.mark(KEYS[2], changed)
    ledger.forget(KEYS[3])
    entries_read(proxy)
    found = ledger.read()
    assert found == {key: changed if key == KEYS[2] else RECORD for key in KEYS if key != KEYS[3]}
    assert entries_read(proxy) == 1


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"rubbish"])
def test_a_damaged_summary_is_passed_over(ledger, content):
    ledger, proxy = ledger
    ledger.read()
    places.write(ledger.folder / "summary.jsonl.gz", content)
    entries_read(proxy)
    assert len(ledger.read()) == 6
    assert entries_read(proxy) == 6
    assert ledger.scan().ignored == ()


def test_who_may_not_write_reads_all_the_same(ledger):
    ledger, proxy = ledger
    proxy.rule = lambda method, path: "403" if method == "PUT" else "none"
    assert len(ledger.read()) == len(ledger.read()) == 6
