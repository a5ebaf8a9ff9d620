"""How long it takes to find out what is done, by a ledger of 60 thousand entries: what a rerun starts with.

    python benchmarks/ledger_rescan.py [ENTRIES]     writes results/ledger_rescan.json

Wall and processor time of one scan, of entries just written (in the page cache) and, where the system lets us
drop its cache, of entries read from the disk.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import machine

from bigdecon.deconvolution import ledger as ledger_module
from bigdecon.deconvolution.ledger import Extent, Ledger, RegionKey, RegionRecord

RESULT = Path(__file__).parent / "results" / "ledger_rescan.json"
SHARD = 256


def fill(ledger: Ledger, entries: int) -> None:
    """Enter regions of two shards each; without waiting for the disk, which is not what is measured."""
    durable = ledger_module.write_durably
    ledger_module.write_durably = lambda path, data: path.write_bytes(data)
    try:
        for number in range(entries):
            z, y = divmod(number, 256)
            start = (z * SHARD, y * SHARD, 0)
            stop = (start[0] + SHARD, start[1] + SHARD, 2 * SHARD)
            digests = {
                Extent((*start[:2], x), (*stop[:2], x + SHARD)): f"{number + x:064x}" for x in (0, SHARD)
            }
            ledger.mark(RegionKey(0, 0, 0, start, stop), RegionRecord(digests, 0, 0.0, 1.0, 2.5))
    finally:
        ledger_module.write_durably = durable


def drop_cache() -> bool:
    """Forget what the system keeps of the disk; needs root."""
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def scan(ledger: Ledger, entries: int) -> dict[str, float]:
    """Measure one scan."""
    began, used = time.perf_counter(), time.process_time()
    found = ledger.scan()
    if len(found.finished) != entries:
        raise RuntimeError(f"{len(found.finished)} of {entries} entries were found")
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - used, 2),
    }


def main() -> None:
    """Measure and write the result."""
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        ledger = Ledger(Path(folder))
        fill(ledger, entries)
        result = {"entries": entries, "cached": scan(ledger, entries)}
        result["from_disk"] = scan(ledger, entries) if drop_cache() else None
    result["peak_memory_MiB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(result))
    RESULT.write_text(json.dumps({**machine.describe(), **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
