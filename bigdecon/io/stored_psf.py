"""PSFs as they were used, kept with a result: workers take them from there, and a report long afterwards.

    bigdecon/psf/SHA256.safetensors      one for every PSF that differs, named by its hash in run.json

Name, voxel size and corrections stand in run.json; nothing there refers to these files, so that results with
and without them are the same to whoever continues or compares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from bigdecon.described import from_json
from bigdecon.errors import OutputError, ReadError
from bigdecon.io.provenance import PSFRecord
from bigdecon.optics.psf import PSF
from bigdecon.storage import places
from bigdecon.storage.places import Place
from bigdecon.storage.write_errors import write_error

__all__ = ["FOLDER", "keep_psfs", "kept_array", "kept_psf"]

FOLDER = "psf"
"""Within the bookkeeping folder of a result."""
MAX_PSF_BYTES = 2**31


def keep_psfs(folder: Place, psfs: Iterable[PSF]) -> None:
    """Write PSFs, each once, unless they are there.

    Parameters
    ----------
    folder : where they lie, made if need be
    psfs : as they are used

    Raises
    ------
    WriteError
        if they cannot be written
    """
    for digest, psf in {psf.sha256: psf for psf in psfs}.items():
        place = folder / f"{digest}.safetensors"
        try:
            if not places.exists(place):
                places.make_folder(folder)
                places.write(place, save({"psf": np.ascontiguousarray(psf.array, np.float32)}))
        except OSError as error:
            raise write_error(place, error) from error


def kept_array(folder: Place, sha256: str, voxel_size_um: tuple[float, ...] | None) -> NDArray[np.float32]:
    """Read the voxels of a PSF ([z,] y, x) that was kept.

    Parameters
    ----------
    folder : where it lies
    sha256, voxel_size_um : of the `PSF`

    Raises
    ------
    ReadError
        if it cannot be read, now
    OutputError
        if it is another one
    """
    place = folder / f"{sha256}.safetensors"
    try:
        data: NDArray[np.float32] = load(places.read(place, limit=MAX_PSF_BYTES))["psf"]
        if PSF(data, voxel_size_um).sha256 == sha256:
            return data
        reason = "it holds another PSF"
    except OSError as error:
        raise ReadError(
            f"the PSF that the run keeps in {place} cannot be read ({error}); "
            "give the same command again: what is finished is kept."
        ) from error
    except (KeyError, SafetensorError, TypeError, ValueError) as error:
        reason = str(error)
    raise OutputError(
        f"the PSF that the run keeps in {place} cannot be read ({reason}); "
        "remove the file, and give the same command again: what is finished is kept."
    )


def kept_psf(folder: Place, noted: Mapping[str, Any]) -> PSF | None:
    """Read a PSF that was kept; None if there is none, or it is not the one that was noted.

    Parameters
    ----------
    folder : where it lies
    noted : a `PSFRecord` of run.json, as JSON
    """
    try:
        record = from_json(PSFRecord, noted)
        if not re.fullmatch("[0-9a-f]{64}", record.sha256):
            return None
        data = load(places.read(folder / f"{record.sha256}.safetensors", limit=MAX_PSF_BYTES))["psf"]
        psf = PSF(data, record.voxel_size_um, record.name, record.corrections)
    except (AttributeError, KeyError, OSError, SafetensorError, TypeError, ValueError):
        return None
    return psf if psf.sha256 == record.sha256 and psf.ndim in (2, 3) else None
