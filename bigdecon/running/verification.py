"""Whether an output is what was written: every shard is read, decoded, hashed and compared with the ledger.

ledger entry (digest) ──┐
                        ├── equal? ──no──> damaged ──repair──> its blocks count as missing
shard ─read, decode,────┘
       hash
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

from bigdecon.deconvolution.lease import Lease
from bigdecon.deconvolution.ledger import Extent, Fault, Ledger, RegionKey, RegionRecord
from bigdecon.deconvolution.tiling import overlap
from bigdecon.errors import RunError
from bigdecon.io.output_folder import BOOKKEEPING
from bigdecon.io.provenance import write_run
from bigdecon.io.writing import has_digest, read_box
from bigdecon.running.resuming import WorkRecord
from bigdecon.running.run_status import find_run
from bigdecon.storage.places import Place, PlaceLike

__all__ = ["Damage", "Verification", "repair_output", "verify_output"]


class Damage(NamedTuple):
    """A shard that is not what the ledger says.

    Attributes
    ----------
    key : the region it is part of
    unit : its box, in voxels of its level
    reason : unreadable, missing or changed
    """

    key: RegionKey
    unit: Extent
    reason: str


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes
    ----------
    output : folder of the result
    checked : shards that were read and compared
    damaged : those that are not as they were written
    unwritten : regions, of all levels, that are yet to be written
    missing : blocks that could not be restored
    """

    output: Place
    checked: int
    damaged: tuple[Damage, ...]
    unwritten: int
    missing: int

    @property
    def sound(self) -> bool:
        """Whether the result is complete, and all of it as written."""
        return not (self.damaged or self.unwritten or self.missing)


def verify_output(
    path: PlaceLike, *, threads: int = 2, on_checked: Callable[[int, int], None] = lambda done, total: None
) -> Verification:
    """Compare all shards of an output, of all levels, with the ledger; reads only.

    Parameters
    ----------
    path : folder of the result, finished or not
    threads : shards that are in memory at a time
    on_checked : called with the shards compared so far, and all of them

    Raises
    ------
    OutputError
        if there is no output of bigdecon
    """
    root, _, work = find_run(path)
    scan = Ledger(root / BOOKKEEPING / "ledger").scan()
    known = scan.finished | scan.faulty
    expected = [key for level in range(len(work.layout.levels)) for key in work.keys(level)]
    shards = [(key, extent) for key in expected if key in known for extent in known[key].digests]
    damaged: list[Damage] = []
    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        checks = pool.map(lambda shard: _compare(root, work, shard[0], shard[1], known[shard[0]]), shards)
        for done, damage in enumerate(checks, 1):
            damaged += [damage] if damage else []
            on_checked(done, len(shards))
    missing = sum(len(entry.faults) for key, entry in scan.faulty.items() if key.level == 0)
    unwritten = sum(key not in known for key in expected)
    return Verification(root, len(shards), tuple(damaged), unwritten, missing)


def repair_output(path: PlaceLike, damaged: Sequence[Damage]) -> None:
    """Enter the blocks of damaged shards as missing: the next run of the same command does them again.

    Raises
    ------
    OutputError
        if there is no output of bigdecon, or another process is writing it
    """
    root, record, work = find_run(path)
    ledger = Ledger(root / BOOKKEEPING / "ledger")
    with Lease(root / BOOKKEEPING):
        write_run(root / BOOKKEEPING / "run.json", replace(record, finished=False))
        scan = ledger.scan()
        known = scan.finished | scan.faulty
        by_region: dict[RegionKey, list[Damage]] = {}
        for damage in damaged:
            by_region.setdefault(damage.key, []).append(damage)
        for key, group in by_region.items():
            entry = known.get(key)
            # Counts of a region cannot be taken apart: where there are any, all of it is done again.
            if entry is None or key.level or entry.clipped or entry.skipped:
                ledger.forget(key)
            else:
                faults = _together(entry.faults, tuple(_faults(work, group)))
                ledger.mark(key, replace(entry, faults=faults))
        # What was averaged from a shard that was damaged already has a hash that fits, and is wrong.
        for key in _made_from(work, damaged):
            ledger.forget(key)


def _compare(
    root: Place, work: WorkRecord, key: RegionKey, extent: Extent, entry: RegionRecord
) -> Damage | None:
    try:
        found = read_box(root, work.layout, key.level, key.timepoint, key.channel, extent.box)
    except RunError as error:
        return Damage(key, extent, f"cannot be read ({error.__cause__ or error})")
    if has_digest(found, entry.digests[extent]):
        return None
    return Damage(
        key, extent, "is empty or missing" if not found.any() else "has changed since it was written"
    )


def _faults(work: WorkRecord, damaged: Sequence[Damage]) -> Iterator[Fault]:
    """Name the blocks that a damaged shard holds."""
    for damage in damaged:
        for core in work.grid.blocks_within(damage.key.box):
            if overlap(core, damage.unit.box):
                yield Fault(Extent.from_box(core), f"its shard {damage.reason}")


def _made_from(work: WorkRecord, damaged: Sequence[Damage]) -> set[RegionKey]:
    """Find the units of coarser levels that were averaged from damaged shards."""
    found, levels = set(), work.layout.levels
    for level in range(1, len(levels)):
        keys = work.keys(level)
        for damage in (one for one in damaged if one.key.level < level):
            pairs = zip(levels[damage.key.level].factors, levels[level].factors, strict=True)
            factors = [coarse // fine for fine, coarse in pairs]
            above = tuple(
                slice(part.start // f, -(-part.stop // f))
                for part, f in zip(damage.unit.box, factors, strict=True)
            )
            place = (damage.key.timepoint, damage.key.channel)
            found |= {k for k in keys if (k.timepoint, k.channel) == place and overlap(k.box, above)}
    return found


def _together(*faults: Sequence[Fault]) -> tuple[Fault, ...]:
    return tuple({fault.extent: fault for fault in itertools.chain(*faults)}.values())
