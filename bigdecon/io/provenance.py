"""Where a result comes from: everything that shaped its voxels, as JSON that a person can read too."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np

from bigdecon.addresses import shown_url
from bigdecon.described import from_json
from bigdecon.errors import OutputError
from bigdecon.intensity import IntensityStats
from bigdecon.io.identity import InputIdentity, input_identity
from bigdecon.io.output_folder import BOOKKEEPING, is_own_output
from bigdecon.storage import places
from bigdecon.storage.object_path import ObjectPath
from bigdecon.storage.places import PlaceLike, as_place
from bigdecon.storage.servers import ServerFailure
from bigdecon.storage.write_errors import write_error
from bigdecon.untrusted import MAX_DOCUMENT_BYTES, is_whole, parse_json, reason, shown

__all__ = [
    "RUN_FORMAT",
    "CurvePoint",
    "InputIdentity",
    "PSFRecord",
    "Provenance",
    "RunRecord",
    "TrainingRecord",
    "fingerprint",
    "input_identity",
    "installed_versions",
    "now",
    "read_run",
    "settings_that_matter",
    "write_run",
]

RUN_FORMAT = 1
"""Version of run.json."""

PACKAGES = ("bigdecon", "torch", "zarr", "dask", "distributed", "numpy", "scipy", "numcodecs", "tifffile")

IRRELEVANT_SETTINGS = frozenset(
    {
        "cluster",
        "dashboard_address",
        "dry_run",
        "follow_links",
        "gpus",
        "input",
        "interface",
        "mask",
        "max_failed",
        "memory_limit",
        "na",
        "output",
        "overwrite",
        "psf",
        "refractive_index",
        "report",
        "slurm",
        "threads",
        "tls",
        "wavelength",
        "workers",
    }
)
"""Settings that leave the voxels as they are, or (input, psf) paths whose content is hashed instead."""


@dataclass(frozen=True)
class PSFRecord:
    """One point spread function as it was used.

    Attributes
    ----------
    name : file name or description
    sha256 : hash of the final array
    corrections : what loading changed, one sentence each
    voxel_size_um : along the spatial axes, in micrometres; None where unknown
    """

    name: str
    sha256: str
    corrections: tuple[str, ...] = ()
    voxel_size_um: tuple[float, ...] | None = None


@dataclass(frozen=True)
class CurvePoint:
    """One point of a training curve; the held-out error is None where it was not measured."""

    step: int
    loss: float
    held_out: float | None = None


@dataclass(frozen=True)
class TrainingRecord:
    """How the network of some channels was trained.

    Attributes
    ----------
    channels : indices of the channels it serves
    model_sha256 : hash of the weights
    why_stopped : steps, time, no further gain, or a model that was given
    curve : loss and held-out error over the steps
    """

    channels: tuple[int, ...]
    model_sha256: str = ""
    why_stopped: str = ""
    curve: tuple[CurvePoint, ...] = ()


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from.

    Attributes
    ----------
    configuration : everything the run was asked for, and what "auto" became; plain JSON values
    psfs : one for every channel, or one for all
    input : what identifies the input
    seed : of everything random
    device : type and name of the processor that computed
    training : one entry for every trained model; none for methods without training
    versions : of Python and the packages
    created : time in UTC, ISO 8601
    command : what was typed, if anything was; without what it may have held of secrets
    findings : what was checked in image and PSF before the run, and what was found there
    """

    configuration: Mapping[str, Any]
    psfs: tuple[PSFRecord, ...]
    input: InputIdentity
    seed: int
    device: str
    training: tuple[TrainingRecord, ...] = ()
    versions: Mapping[str, str] = field(default_factory=lambda: installed_versions())
    created: str = field(default_factory=lambda: now())
    command: str = ""
    findings: tuple[Mapping[str, Any], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Give plain JSON values; NaN and infinity become null."""
        content: dict[str, Any] = _plain({"format": RUN_FORMAT, **asdict(self)})
        return content


@dataclass(frozen=True)
class RunRecord:
    """The content of run.json: what a later run compares itself with.

    Attributes
    ----------
    fingerprint : of everything that shapes the voxels
    provenance : as JSON
    finished : whether every voxel of every level is written
    work : how the work is cut up, for those who look at the output later: see `resuming.WorkRecord`
    """

    fingerprint: str
    provenance: Mapping[str, Any]
    finished: bool = False
    work: Mapping[str, Any] | None = None


def now() -> str:
    """Give the time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def installed_versions() -> dict[str, str]:
    """Give the versions of Python and of the packages that touch voxels."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def settings_that_matter(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Drop from `RunConfig.as_dict()` what cannot change a voxel: workers, addresses, the engine, paths."""
    kept = {key: value for key, value in configuration.items() if key not in IRRELEVANT_SETTINGS}
    if isinstance(kept.get("tiling"), Mapping):
        kept["tiling"] = {key: value for key, value in kept["tiling"].items() if key != "engine"}
    return kept


def fingerprint(
    configuration: Mapping[str, Any],
    psfs: Sequence[PSFRecord],
    source: InputIdentity,
    further: Mapping[str, Any] | None = None,
) -> str:
    """Hash everything that affects the voxels: equal fingerprints belong to one result.

    Parameters
    ----------
    configuration : `RunConfig.as_dict()`; what cannot change a voxel is left out
    psfs : as used; only the hash of the array counts
    source : the input; neither its place counts nor the stored files, of which a broken one may be mended
    further : anything else, such as the hash of a model that was given, as JSON values

    Returns
    -------
    SHA-256, 64 hexadecimal digits
    """
    parts = {
        "settings": settings_that_matter(configuration),
        "psfs": [psf.sha256 for psf in psfs],
        "input": {**asdict(source), "location": "", "files": ()},
        "further": dict(further or {}),
    }
    text = json.dumps(_plain(parts), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Turn tuples, NumPy numbers and paths into plain JSON values; addresses lose what opens them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, os.PathLike):
        return shown_url(os.fspath(value))
    if isinstance(value, str):
        return shown_url(value)
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value


def write_run(path: PlaceLike, record: RunRecord) -> None:
    """Write run.json in one step: a reader finds the old content or the new, never a part.

    Parameters
    ----------
    path : of the file run.json; its folder exists

    Raises
    ------
    WriteError
        if the file system or the server refuses
    """
    target = as_place(path)
    text = json.dumps({"format": RUN_FORMAT, **_plain(asdict(record))}, indent=1, allow_nan=False)
    try:
        places.write(target, text.encode())
    except OSError as error:
        raise write_error(target, error) from error


def is_unfinished(folder: PlaceLike) -> bool:
    """Whether a folder is an incomplete result of bigdecon; False where a server does not tell."""
    place = as_place(folder)
    try:
        record = read_run(place / BOOKKEEPING / "run.json") if is_own_output(place) else None
    except OutputError as error:
        out_of_reach = isinstance(error.__cause__, ServerFailure | PermissionError)
        if isinstance(place, ObjectPath) and out_of_reach:
            return False
        raise
    return record is not None and not record.finished


def read_run(path: PlaceLike) -> RunRecord | None:
    """Read run.json; None where there is none.

    Raises
    ------
    OutputError
        if a newer bigdecon wrote it, it is damaged, or a server does not give it
    """
    target = as_place(path)
    try:
        content = parse_json(places.read(target, limit=MAX_DOCUMENT_BYTES))
        version = content["format"] if isinstance(content, dict) else None
        if not isinstance(version, int) or not is_whole(version):
            raise ValueError(f"its format is {shown(version)}")
    except FileNotFoundError:
        return None
    except (ServerFailure, PermissionError) as error:
        raise OutputError(f"{target} cannot be read: {error.strerror}; try again later.") from error
    except (OSError, ValueError, KeyError) as error:
        raise OutputError(f"{target} is damaged ({reason(error)}); --overwrite starts anew.") from error
    if version > RUN_FORMAT:
        raise OutputError(
            f"{target} has format {version}, written by a newer bigdecon; this one reads up to {RUN_FORMAT}: "
            "update bigdecon or choose another output."
        )
    try:
        return _checked_record(content)
    except (KeyError, TypeError, ValueError) as error:
        raise OutputError(f"{target} is damaged ({reason(error)}); --overwrite starts anew.") from error


def _checked_record(content: Mapping[str, Any]) -> RunRecord:
    """Check what a later run compares itself with; the rest is for people."""
    mark, provenance, finished = content["fingerprint"], content["provenance"], content["finished"]
    if not isinstance(mark, str) or not isinstance(finished, bool) or not isinstance(provenance, dict):
        raise ValueError("fingerprint, provenance and finished are not a text, an object and a truth value")
    for name, kind in (("configuration", dict), ("psfs", list), ("input", dict)):
        if not isinstance(provenance[name], kind):
            raise ValueError(f"its entry {name} is {shown(provenance[name])}")
    for psf in provenance["psfs"]:
        if not isinstance(psf["sha256"], str):
            raise ValueError(f"the hash of a PSF is {shown(psf['sha256'])}")
    for name in ("digest", "shape"):
        provenance["input"][name]
    chosen, work = provenance["configuration"].get("chosen", {}), content.get("work")
    if not isinstance(chosen, dict) or not isinstance(work, dict | None):
        raise ValueError(f"its entries chosen and work are {shown(chosen)} and {shown(work)}")
    for stats in chosen.get("stats", ()):
        from_json(IntensityStats, stats)
    for name in ("block", "tile"):
        if chosen.get(name) is not None and not is_whole(chosen[name], 1):
            raise ValueError(f"its {name} is {shown(chosen[name])}")
    return RunRecord(mark, provenance, finished, work)
