"""What a report is about: a result, and as much of what it was made from as can be found.

output folder ── run.json ──> settings, choices, training curves      always
└── ledger ────> which blocks are missing                always
input  (its path in run.json, or given)  ──> before and after, noise, residual, two halves
PSF    (kept with the result; its path, or in the trained model) ──> the forward model
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from bigdecon.addresses import shown_url
from bigdecon.config import RunConfig, TilingConfig
from bigdecon.deconvolution.ledger import Ledger
from bigdecon.deconvolution.tuning import Tuned
from bigdecon.described import from_json
from bigdecon.diagnosis.findings import Finding
from bigdecon.errors import BigdeconError, OutputError, VolumeError
from bigdecon.intensity import IntensityStats
from bigdecon.io.identity import input_identity
from bigdecon.io.output_folder import BOOKKEEPING
from bigdecon.io.provenance import RunRecord
from bigdecon.io.reading import inspect_volume, open_volume
from bigdecon.io.stored_psf import FOLDER as KEPT_PSFS
from bigdecon.io.stored_psf import kept_psf
from bigdecon.learning.checkpoint import Checkpoint, load_checkpoint
from bigdecon.optics.psf import PSF
from bigdecon.reporting.method_recipe import MethodRecipe, recipe_for
from bigdecon.running.classical_settings import tuned_from_record
from bigdecon.running.resuming import WorkRecord
from bigdecon.running.run_inputs import load_psfs, open_input, psf_of
from bigdecon.running.run_status import RunStatus, find_run, run_status
from bigdecon.storage.places import Place, PlaceLike
from bigdecon.volume import Box, Volume

__all__ = ["Subject", "find_subject"]


@dataclass(frozen=True)
class Subject:
    """A result and what belongs to it.

    Attributes
    ----------
    output : folder of the result
    record, work, status : what its bookkeeping says
    result : the voxels
    image : the input, cropped and selected as the run did; None where it cannot be had
    config : settings of the run, as far as they are known
    psfs : one a channel; None where it cannot be had
    stats : brightness of every channel
    tuned : settings of the classical methods, one a channel; none for networks that nothing refines
    models : the trained networks, one a channel; none for classical methods
    recipes : how each channel was restored; None where that cannot be repeated
    findings : what the run itself found before it began
    missing : by time point and channel, boxes that are not written
    notes : what could not be had, and so is not shown, one sentence each
    coarser_inputs : coarser levels of the input, from fine to coarse, where it has any and was not cropped
    """

    output: Place
    record: RunRecord
    work: WorkRecord
    status: RunStatus
    result: Volume
    image: Volume | None
    config: RunConfig
    psfs: tuple[PSF | None, ...]
    stats: tuple[IntensityStats, ...]
    tuned: tuple[Tuned, ...]
    models: tuple[Checkpoint, ...]
    recipes: tuple[MethodRecipe | None, ...]
    findings: tuple[Finding, ...]
    missing: Mapping[tuple[int, int], tuple[Box, ...]]
    notes: tuple[str, ...]
    coarser_inputs: tuple[Volume, ...] = ()

    def background(self, channel: int) -> float:
        """Camera's offset as the method took it, in data units."""
        return self.tuned[channel].settings.background if self.tuned else self.stats[channel].background

    def offset(self, channel: int) -> float:
        """Give what was taken off the result, in data units."""
        return self.background(channel) if self.config.subtract_background else 0.0


def find_subject(
    path: PlaceLike,
    *,
    image_path: str | None = None,
    volume: Volume | None = None,
    psfs: tuple[PSF, ...] = (),
    device: str = "cpu",
    threads: int = 1,
) -> Subject:
    """Gather what a report needs.

    Parameters
    ----------
    path : folder of the result, finished or not
    image_path : the input, where it is no longer in its old place
    volume, psfs : input and PSFs as the run has them open; found by their paths otherwise
    device, threads : where methods will be computed

    Raises
    ------
    OutputError
        if there is no result of bigdecon, or its records are damaged
    VolumeError
        if `image_path` is no image, or one of another shape
    """
    root, record, work = find_run(path)
    chosen: Mapping[str, Any] = record.provenance["configuration"].get("chosen", {})
    config = _config_of(record.provenance["configuration"])
    result = open_volume(str(root))
    notes: list[str] = []
    image = volume if volume is not None else _find_image(record, config, result, image_path, notes)
    models = _models(root, work)
    found_psfs: tuple[PSF | None, ...] = psfs or _find_psfs(record, config, result, models, root, notes)
    stats = tuple(from_json(IntensityStats, entry) for entry in chosen.get("stats", ()))
    if len(stats) != result.n_channels:
        raise OutputError(
            f"run.json of {root} does not tell how bright its {result.n_channels} channels are."
        )
    tuned = _tuned(chosen)
    recipes = tuple(
        None
        if psf is None
        else recipe_for(
            config,
            psf,
            tuned=tuned[c] if tuned else None,
            model=models[c] if c < len(models) else None,
            stats=stats[c],
            tile=chosen.get("tile"),
            device=device,
            threads=threads,
        )
        for c, psf in enumerate(found_psfs)
    )
    return Subject(
        output=root,
        record=record,
        work=work,
        status=run_status(root),
        result=result,
        image=image,
        config=config,
        psfs=found_psfs,
        stats=stats,
        tuned=tuned,
        models=tuple(checkpoint for _, checkpoint in models),
        recipes=recipes,
        findings=_findings(record),
        missing=_missing(root, work),
        notes=tuple(notes),
        coarser_inputs=_coarser(config, image_path or _noted_path(record, config)) if image else (),
    )


def _config_of(content: Mapping[str, Any]) -> RunConfig:
    """Read the settings of a run; those that this version does not know are left out."""
    known = {field.name for field in fields(RunConfig)} - {"slurm", "tiling"}
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in content.items()
        if name in known
    }
    tiling = content.get("tiling")
    try:
        cut = TilingConfig(**tiling) if isinstance(tiling, dict) else TilingConfig()
        return RunConfig(**{"input": "", "psf": (), **values, "tiling": cut})  # type: ignore[arg-type]
    except TypeError as error:
        raise OutputError(f"the settings in run.json are damaged ({error}).") from error


# --- the input -----------------------------------------------------------------------------------


def _find_image(
    record: RunRecord, config: RunConfig, result: Volume, given: str | None, notes: list[str]
) -> Volume | None:
    """Open the input as the run did; without one that was named, a note says what is missing."""
    noted = record.provenance["input"]
    path = given or _noted_path(record, config)
    try:
        image = open_input(_with_input(config, path))
        if image.spatial_shape != result.spatial_shape or image.n_channels != result.n_channels:
            raise VolumeError(
                f"{path} has the shape {image.shape} and the result {result.shape}: it is another image."
            )
        identity = input_identity(image)
    except BigdeconError as error:
        if given:
            raise
        notes.append(
            f"The input image is not where it was ({_sentence(error)}). The comparison with it is missing: "
            "before and after, what the model leaves, what is reproducible; "
            "bigdecon report --input names its new place."
        )
        return None
    if noted.get("digest") != identity.digest or identity.changed_files(noted.get("files", ())):
        notes.append(f"The input image {shown_url(path)} has changed since this result was made from it.")
    return image


def _noted_path(record: RunRecord, config: RunConfig) -> str:
    return str(record.provenance["input"].get("location") or config.input)


def _coarser(config: RunConfig, path: str) -> tuple[Volume, ...]:
    """Open the coarser levels of the input; none where there are none, or only a part of it was restored."""
    if config.roi:
        return ()
    found = []
    with suppress(BigdeconError):
        for level in range(config.level + 1, len(inspect_volume(path).levels)):
            found.append(open_input(replace(config, input=path, level=level, voxel_size=None)))
    return tuple(found)


def _with_input(config: RunConfig, path: str) -> RunConfig:
    return replace(config, input=path)


def _find_psfs(
    record: RunRecord,
    config: RunConfig,
    result: Volume,
    models: list[tuple[Place, Checkpoint]],
    root: Place,
    notes: list[str],
) -> tuple[PSF | None, ...]:
    """Load the PSFs as kept, by their paths, or from the models; only those that were used count."""
    kept = [kept_psf(root / BOOKKEEPING / KEPT_PSFS, entry) for entry in record.provenance["psfs"]]
    if len(kept) == result.n_channels and None not in kept:
        return tuple(kept)
    wanted = [str(entry.get("sha256")) for entry in record.provenance["psfs"]]
    for folder in (None, _folder_of(config.input), root.parent if isinstance(root, Path) else None):
        with suppress(BigdeconError, OSError, ValueError):
            found = load_psfs(_with_psfs_in(config, folder), result)
            if found and [psf.sha256 for psf in found] == wanted:
                return found
    if models:
        return tuple(psf_of(checkpoint) for _, checkpoint in models)
    names = ", ".join(dict.fromkeys(config.psf)) or "a model"
    notes.append(
        f"The PSF ({shown_url(names)}) is not where it was, or has changed. What needs it is not shown."
    )
    return (None,) * result.n_channels


def _folder_of(path: str) -> Path | None:
    return None if "://" in path else Path(path).absolute().parent


def _with_psfs_in(config: RunConfig, folder: Path | None) -> RunConfig:
    """Look for the PSFs in a folder, by their names alone; None takes their paths as they are."""
    if folder is None:
        return config
    return replace(config, psf=tuple(str(folder / os.path.basename(name)) for name in config.psf))


# --- what the bookkeeping holds ------------------------------------------------------------------


def _models(root: Place, work: WorkRecord) -> list[tuple[Place, Checkpoint]]:
    folder, found = root / BOOKKEEPING / "model", []
    for channel in range(work.layout.n_channels):
        path = folder / f"channel-{channel}.safetensors"
        try:
            found.append((path, load_checkpoint(path)))
        except BigdeconError:
            return []  # a classical method, or a training that has not ended
    return found


def _tuned(chosen: Mapping[str, Any]) -> tuple[Tuned, ...]:
    try:
        return tuned_from_record(chosen.get("tuned", ()))
    except (AttributeError, KeyError, TypeError) as error:
        raise OutputError(f"run.json is damaged: what was chosen cannot be read ({error}).") from error


def _findings(record: RunRecord) -> tuple[Finding, ...]:
    """Read what the run found; entries of another form are passed over."""
    found = []
    entries = record.provenance.get("findings")
    for entry in entries if isinstance(entries, list) else ():
        with suppress(TypeError, ValueError):
            found.append(from_json(Finding, entry))
    return tuple(found)


def _missing(root: Place, work: WorkRecord) -> dict[tuple[int, int], tuple[Box, ...]]:
    """List what is not written: blocks that could not be restored, and regions still to come."""
    scan = Ledger(root / BOOKKEEPING / "ledger").scan()
    found: dict[tuple[int, int], list[Box]] = {}
    for key in work.keys(level=0):
        boxes = found.setdefault((key.timepoint, key.channel), [])
        if key in scan.faulty:
            boxes += [fault.extent.box for fault in scan.faulty[key].faults]
        elif key not in scan.finished:
            boxes.append(key.box)
    return {place: tuple(boxes) for place, boxes in found.items()}


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
