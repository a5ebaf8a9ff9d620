"""What an earlier run of the same command left: whether it may be continued, and what it had found out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from typing import Any

from bigdecon.config import RunConfig
from bigdecon.deconvolution.ledger import Extent, Ledger, RegionKey, RegionRecord
from bigdecon.deconvolution.tiling import BlockGrid, overlap
from bigdecon.errors import OutputError
from bigdecon.intensity import IntensityStats
from bigdecon.io.identity import InputIdentity
from bigdecon.io.layout import OutputLayout, layout_from_json, write_boxes
from bigdecon.io.output_folder import BOOKKEEPING, check_output_path, is_incomplete, is_own_output
from bigdecon.io.provenance import PSFRecord, RunRecord, read_run, settings_that_matter
from bigdecon.storage.places import Place
from bigdecon.volume import Box, Volume

__all__ = [
    "WorkRecord",
    "block_before",
    "changed_surroundings",
    "check_files",
    "check_unchanged",
    "find_earlier_run",
    "measured_before",
]

MAX_REGIONS = 2**24
"""Regions of a stack in run.json: those of an image of a thousand million million voxels."""


@dataclass(frozen=True)
class WorkRecord:
    """How the work of a run is cut up; in run.json, so that an output can be looked at without its input.

    Attributes
    ----------
    layout : of the output's arrays
    grid : the blocks of a stack
    regions : boxes that are computed and written one after the other
    """

    layout: OutputLayout
    grid: BlockGrid
    regions: tuple[Box, ...]

    def as_json(self) -> dict[str, Any]:
        """Give plain JSON values; the regions follow from the faces that they have along each axis."""
        faces = [sorted({b for box in self.regions for b in (box[a].start, box[a].stop)}) for a in self._axes]
        return {"layout": asdict(self.layout), "grid": asdict(self.grid), "faces": faces}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> WorkRecord:
        """Read what `as_json` gave.

        Raises
        ------
        OutputError
            if it is damaged
        """
        try:
            grid = content["grid"]
            shape, halo = (tuple(int(n) for n in grid[name]) for name in ("shape", "halo"))
            cuts = tuple(tuple(int(n) for n in axis) for axis in grid["cuts"])
            faces = [[int(n) for n in axis] for axis in content["faces"]]
            if math.prod(len(axis) for axis in faces) > MAX_REGIONS:
                raise ValueError(f"more than {MAX_REGIONS} regions")
            regions = product(*([slice(*pair) for pair in pairwise(axis)] for axis in faces))
            return cls(layout_from_json(content["layout"]), BlockGrid(shape, cuts, halo), tuple(regions))
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise OutputError(
                f"run.json is damaged: it does not tell how the work was cut up ({error}); "
                "--overwrite starts anew."
            ) from error

    def keys(self, level: int = 0) -> list[RegionKey]:
        """List what the ledger should know of a level, in the order of the work."""
        boxes = self.regions if level == 0 else write_boxes(self.layout.levels[level])
        places = product(range(self.layout.n_timepoints), range(self.layout.n_channels))
        return [
            RegionKey.from_box(box, level=level, timepoint=t, channel=c) for t, c in places for box in boxes
        ]

    @property
    def _axes(self) -> range:
        return range(len(self.grid.shape))


def find_earlier_run(
    config: RunConfig,
    output: Place,
    mark: str,
    psfs: Sequence[PSFRecord],
    identity: InputIdentity,
    mask_digest: str | None = None,
) -> RunRecord | None:
    """Look whether the output is there already; None if it is yet to be made, and may be made.

    Parameters
    ----------
    config, output : what was asked for, and where it should go
    mark : fingerprint of the run
    psfs, identity, mask_digest : what the run reads, to name what differs

    Raises
    ------
    OutputError
        if the output is another run's, or may not be written
    """
    continues = is_own_output(output) and not config.overwrite and not is_incomplete(output)
    record = read_run(output / BOOKKEEPING / "run.json") if continues else None
    if record is None:
        check_output_path(output, overwrite=config.overwrite, input_location=config.input)
        return None
    if record.fingerprint != mark:
        changed = _differences(record.provenance, config, psfs, identity)
        if record.provenance["configuration"]["chosen"].get("mask") != mask_digest:
            changed.append("the mask")
        what = ", ".join(changed) or "the model, or the training that the preset chose for another device"
        raise OutputError(
            f"{output} belongs to another run, which differed in {what}; "
            "--overwrite replaces it, or choose another output."
        )
    return record


def _differences(
    old: Any, config: RunConfig, psfs: Sequence[PSFRecord], identity: InputIdentity
) -> list[str]:
    """Name what differs between the run on disk and this one."""
    before, now = settings_that_matter(old["configuration"]), settings_that_matter(config.as_dict())
    tiling, found = now.pop("tiling"), []
    for name, value in {**now, **tiling}.items():
        was = before.get(name, before["tiling"].get(name))
        plain = list(value) if isinstance(value, tuple) else value
        if was != plain:
            words = ["default" if v is None else v for v in (was, plain)]
            found.append(f"{name.replace('_', '-')} ({words[0]} then, {words[1]} now)")
    if [psf["sha256"] for psf in old["psfs"]] != [psf.sha256 for psf in psfs]:
        found.append("the PSF")
    if old["input"]["digest"] != identity.digest or old["input"]["shape"] != list(identity.shape):
        found.append("the input image")
    else:
        if old["input"]["voxel_size_um"] != _plain(identity.voxel_size_um):
            found.append("the voxel size")
        if old["input"]["selection"] != _plain(identity.selection):
            found.append("the part of the input")
    return found


def _plain(values: Sequence[Any] | None) -> list[Any] | None:
    return None if values is None else list(values)


def measured_before(earlier: RunRecord | None) -> tuple[IntensityStats, ...]:
    """Take up what the run measured when it began: an image that has been mended might measure otherwise."""
    chosen = earlier.provenance["configuration"]["chosen"] if earlier else {}
    return tuple(IntensityStats(**entry) for entry in chosen.get("stats", ()))


def block_before(earlier: RunRecord) -> int:
    """Take up the block that `--block auto` chose when the run began, in voxels.

    Raises
    ------
    OutputError
        if the record does not tell
    """
    block = earlier.provenance["configuration"]["chosen"].get("block")
    if not isinstance(block, int):
        raise OutputError(
            "run.json of the output is damaged: it does not tell which block --block auto chose; "
            "--overwrite starts anew."
        )
    return block


def check_files(
    earlier: RunRecord, output: Place, volume: Volume, grid: BlockGrid, identity: InputIdentity
) -> None:
    """Refuse an input whose stored files have changed, where blocks that are finished have read them.

    A chunk that was unreadable may be mended, and one that nobody has read yet may change.

    Raises
    ------
    OutputError
        naming the file
    """
    changed = identity.changed_files(earlier.provenance["input"].get("files", ()))
    if not changed:
        return
    scan = Ledger(output / BOOKKEEPING / "ledger").scan()
    known = {key: entry for key, entry in (scan.finished | scan.faulty).items() if key.level == 0}
    for file in changed:
        held = Extent(file.start, file.stop).box
        if any(_has_read(volume, grid, key, entry, held) for key, entry in known.items()):
            raise OutputError(
                f"{output} belongs to another run, or the input image was changed since: {identity.location} "
                f"{file.name} is not as it was; --overwrite starts anew, or choose another output."
            )


def _has_read(volume: Volume, grid: BlockGrid, key: RegionKey, entry: RegionRecord, held: Box) -> bool:
    """Whether a region's finished blocks have read any of some voxels of the stored array."""
    stack = volume.stack(timepoint=key.timepoint, channel=key.channel)

    def reads(box: Box) -> bool:
        return overlap(stack.locate(grid.grow(box))[1], held) is not None

    missing = {fault.extent for fault in entry.faults}
    return reads(key.box) and any(
        reads(core) for core in grid.blocks_within(key.box) if Extent.from_box(core) not in missing
    )


def check_unchanged(output: Place, earlier: RunRecord | None) -> None:
    """Make sure that a run is still the one that was to be continued, once nobody else can write.

    Raises
    ------
    OutputError
        if another run has taken its place
    """
    record = read_run(output / BOOKKEEPING / "run.json")
    if earlier is not None and (record is None or record.fingerprint != earlier.fingerprint):
        raise OutputError(
            f"{output} has become another run's while this one waited; choose another output with -o, or "
            "give the same command again to see how they differ."
        )


def changed_surroundings(earlier: RunRecord | None, versions: Mapping[str, str], device: str) -> list[str]:
    """Name, one sentence each, what differs from when a run was begun and may change voxels."""
    if earlier is None:
        return []
    was = earlier.provenance.get("versions", {})
    names = [name for name in ("bigdecon", "torch") if was.get(name) not in (None, versions.get(name))]
    found = [
        f"the run was begun with {name} {was[name]} and goes on with {versions.get(name)}; parts of the "
        "result may differ, beyond rounding if a method has changed."
        for name in names
    ]
    before = earlier.provenance.get("device")
    if before not in (None, device):
        found.append(f"the run was begun on {before} and goes on on {device}: parts will differ by rounding.")
    return found
