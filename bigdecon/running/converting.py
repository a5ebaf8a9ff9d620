"""`convert_image`: copy an image into another format, part by part, with all that both formats can hold.

           .NAME.converting/           NAME
    input ──▶ draft and lease ──rename──▶ whole, or not there at all

An OME-Zarr draft goes on where an interrupted conversion stopped; a TIFF is begun anew. In an object store,
which cannot rename, the image is made in its place, with a record that says that it is not finished.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dask.utils import format_bytes

from bigdecon.deconvolution.lease import Lease
from bigdecon.distributed.progress import Listener, Message, RegionCounter, stage
from bigdecon.errors import OptionError, OutputError, VolumeError
from bigdecon.io.identity import input_identity
from bigdecon.io.layout import OUTPUT_DTYPES, plan_output
from bigdecon.io.ome_xml import lost_in_ome_xml
from bigdecon.io.output_folder import (
    BOOKKEEPING,
    check_output_path,
    is_own_output,
    is_taken,
    output_place,
    remove_output,
)
from bigdecon.io.provenance import Provenance, RunRecord, fingerprint, is_unfinished, read_run
from bigdecon.io.reading import choose_channels, inspect_volume, open_volume, parse_roi
from bigdecon.io.tiff_writing import count_parts, largest_tiff_bytes, write_ome_tiff
from bigdecon.running.conversion_checks import TIFF_NAMES, Conversion, check_tiff_target, names_tiff, taken
from bigdecon.running.zarr_copy import ZarrCopy, copy_to_zarr, expected_zarr_bytes, largest_zarr_bytes
from bigdecon.storage.object_path import ObjectPath
from bigdecon.storage.places import Place
from bigdecon.storage.write_errors import write_error
from bigdecon.volume import Volume

__all__ = ["ConversionPlan", "ConversionResult", "convert_image"]

SPARE = 2**24
"""Bytes that are left free on a disk."""


@dataclass(frozen=True)
class ConversionPlan:
    """What will be copied, and where to.

    Attributes
    ----------
    volume : what is copied
    output : where it goes
    format : "OME-TIFF" or "OME-Zarr", with its version
    dtype : type of the values that are written
    largest_bytes : disk space where nothing can be compressed
    notes : what was assumed of the input, in sentences
    warnings : what the target cannot hold, in sentences
    """

    volume: Volume
    output: Place
    format: str
    dtype: str
    largest_bytes: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion left behind.

    Attributes
    ----------
    plan : what was to be done
    state : "finished", or "found finished" by an earlier conversion of the same input
    clipped : voxels outside the range of an integer type
    """

    plan: ConversionPlan
    state: str
    clipped: int = 0


def convert_image(
    config: Conversion,
    *,
    on_plan: Callable[[ConversionPlan], None] = lambda plan: None,
    on_event: Listener = lambda event: None,
) -> ConversionResult:
    """Copy an image into another format.

    Memory stays at a few boxes, whatever the size. The output appears under its name when it is whole.

    Parameters
    ----------
    config : what to copy, and where to
    on_plan : gets the plan before anything is written
    on_event : gets progress, from several threads

    Raises
    ------
    InputError
        for bad input; nothing has been written
    RunError
        for failures while copying; a disk that is full, or a damaged file
    """
    plan = _plan(config)
    on_plan(plan)
    for sentence in plan.warnings:
        on_event(Message(sentence, "warning"))
    if plan.format == "OME-TIFF":
        clipped = _to_tiff(plan, config, on_event)
        return ConversionResult(plan, "finished", clipped)
    return _to_zarr(plan, config, on_event)


# --- planning ------------------------------------------------------------------------------------


def _plan(config: Conversion) -> ConversionPlan:
    target = output_place(config.output)
    is_tiff = names_tiff(config)
    if is_unfinished(config.input):
        raise VolumeError(f"{config.input} is not finished; give the same bigdecon run command again first.")
    volume = _open(config)
    dtype = config.dtype or volume.dtype.name
    if dtype not in OUTPUT_DTYPES:
        raise OptionError(
            f"the type {dtype} cannot be written; choose another with --dtype: {', '.join(OUTPUT_DTYPES)}."
        )
    summary = inspect_volume(config.input, follow_links=config.follow_links, stack=config.stack)
    if is_tiff:
        size, form, lost = (
            largest_tiff_bytes(volume, dtype, tiled=config.tiled),
            "OME-TIFF",
            lost_in_ome_xml(volume),
        )
    else:
        layout = plan_output(volume, dtype=dtype, ome_version=config.ome_version)
        size, form, lost = largest_zarr_bytes(layout), f"OME-Zarr {config.ome_version}", []
    return ConversionPlan(volume, target, form, dtype, size, summary.notes, tuple(lost))


def _open(config: Conversion) -> Volume:
    def opened(voxel_size_um: tuple[float, ...] | None) -> Volume:
        return open_volume(
            config.input,
            level=config.level,
            channel=choose_channels(config.channel),
            timepoint=config.timepoint,
            voxel_size_um=voxel_size_um,
            follow_links=config.follow_links,
            stack=config.stack,
        )

    volume = opened(config.voxel_size)
    return volume.crop(parse_roi(config.roi, volume.spatial_axes)) if config.roi else volume


def _check_room(plan: ConversionPlan, expected: Callable[[], int]) -> None:
    """Refuse what will not fit the disk; of what can be packed a sample says how well.

    Raises
    ------
    OutputError
        if it is not likely to fit
    """
    if not isinstance(plan.output, Path):
        return
    folder = plan.output.absolute().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free - SPARE
    if plan.largest_bytes <= free:
        return
    needed = expected()
    if needed > free:
        raise OutputError(
            f"{plan.output} will take about {format_bytes(needed)}, and {format_bytes(max(0, free))} are "
            f"free in {folder}; make room, choose another place, or copy a part of it with --roi."
        )


# --- TIFF ----------------------------------------------------------------------------------------


def _to_tiff(plan: ConversionPlan, config: Conversion, listener: Listener) -> int:
    target = Path(str(plan.output))
    check_tiff_target(target, config)
    beside = largest_tiff_bytes(plan.volume, plan.dtype) if config.tiled else 0
    _check_room(plan, lambda: plan.largest_bytes + beside)
    parts = count_parts(plan.volume, tiled=config.tiled)
    work = _work_folder(target)
    draft, name = work / target.name, _image_name(target)
    counter, lock = RegionCounter(listener, parts), threading.Lock()

    def on_part(voxels: int) -> None:
        with lock:
            counter.advance(voxels)

    with Lease(work), stage("write", parts, listener):
        try:
            report = write_ome_tiff(
                plan.volume, draft, dtype=plan.dtype, name=name, tiled=config.tiled, on_part=on_part
            )
            if target.exists() and not config.overwrite:  # made by another meanwhile
                raise taken(target)
            draft.replace(target)
        except OSError as error:
            raise write_error(target, error) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return report.n_clipped


# --- OME-Zarr ------------------------------------------------------------------------------------


def _to_zarr(plan: ConversionPlan, config: Conversion, listener: Listener) -> ConversionResult:
    target = plan.output
    layout = plan_output(plan.volume, dtype=plan.dtype, ome_version=config.ome_version)
    record = _record(plan, config)
    earlier = read_run(target / BOOKKEEPING / "run.json") if is_own_output(target) else None
    same = earlier is not None and earlier.fingerprint == record.fingerprint and not config.overwrite
    if same and earlier is not None and earlier.finished:
        return ConversionResult(plan, "found finished")
    if not same:
        check_output_path(target, overwrite=config.overwrite, input_location=plan.volume.location)
    _check_room(plan, lambda: expected_zarr_bytes(plan.volume, layout))
    job = ZarrCopy(plan.volume, layout, _image_name(target), record)
    if isinstance(target, ObjectPath) or same:
        with Lease(target / BOOKKEEPING) as lease:
            if not same:
                remove_output(target)
            clipped = copy_to_zarr(job, target, target / BOOKKEEPING, lease, config, listener)
        return ConversionResult(plan, "finished", clipped)
    work = _work_folder(target)
    draft = work / target.name
    with Lease(work) as lease:
        clipped = copy_to_zarr(job, draft, work, lease, config, listener)
        if is_taken(target):  # perhaps by another meanwhile
            if not config.overwrite:
                raise taken(target)
            Lease(target / BOOKKEEPING).refuse_living()
        try:
            remove_output(target)
            draft.rename(target)
        except OSError as error:
            raise write_error(target, error) from error
        shutil.rmtree(work, ignore_errors=True)
    return ConversionResult(plan, "finished", clipped)


def _record(plan: ConversionPlan, config: Conversion) -> RunRecord:
    identity = input_identity(plan.volume)
    chosen = {"method": "convert", "dtype": plan.dtype, "ome_version": config.ome_version}
    mark = fingerprint(chosen, (), identity, {"place": list(plan.volume.translation_um)})
    configuration: dict[str, Any] = {**asdict(config), **chosen}
    return RunRecord(mark, Provenance(configuration, (), identity, seed=0, device="cpu").as_json())


# --- places --------------------------------------------------------------------------------------


def _work_folder(target: Path) -> Path:
    return target.with_name(f".{target.name}.converting")


def _image_name(target: Place) -> str:
    name = target.name
    for ending in (*TIFF_NAMES, ".zarr", ".ome"):
        name = name.removesuffix(ending)
    return name
