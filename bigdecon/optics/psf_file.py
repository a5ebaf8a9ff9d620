"""PSF files: TIFF, ImageJ TIFF, OME-TIFF and .npy, with the voxel size where the format has one.

Only the file is dealt with here; what is wrong with the numbers in it is found and corrected by
`psf.load_psf`.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from bigdecon.errors import PSFError
from bigdecon.optics.psf_origin import PSFOrigin
from bigdecon.optics.psf_path import READABLE_PSF, check_psf_path
from bigdecon.tiff_safety import check_ome_xml, check_pages, open_quietly, why_no_tiff

__all__ = ["UNITS_UM", "read_psf_file", "read_psf_origin", "write_psf_file"]

MAX_PSF_BYTES = 2**32
"""4 GiB: a PSF of 1024 voxels a side as float32. It is held in memory several times over."""
MAX_RATIO = 2000
"""Of an image to its file; deflate, the densest packing in use, reaches 1032."""

Sizes = tuple[float, ...]

UNITS_UM = {
    "nm": 1e-3, "nanometer": 1e-3, "nanometre": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "\\u00b5m": 1.0,
    "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0, "mm": 1e3, "millimeter": 1e3,
    "cm": 1e4, "centimeter": 1e4, "m": 1e6, "meter": 1e6, "inch": 25400.0, "å": 1e-4, "pm": 1e-6,
}  # fmt: skip


def read_psf_file(path: str | os.PathLike[str]) -> tuple[NDArray[Any], Sizes | None]:
    """Read an array, without axes of extent 1, and the voxel size in micrometres (None if not in the file).

    Raises
    ------
    PSFError
        if there is no such file or it is no grey-value image
    """
    check_psf_path(path)
    try:
        if Path(path).suffix.lower() == ".npy":
            return _read_npy(path), None
        with open_quietly(), tifffile.TiffFile(path) as tif:
            check_pages(tif)
            check_ome_xml(tif.ome_metadata, str(Path(path).parent))
            series = tif.series[0]
            _check_size(series.shape, np.dtype(series.dtype), tif.filehandle.size)
            array, axes = series.asarray(), series.axes
            size = _voxel_size_in_file(tif)
    except Exception as error:  # broken files make the decoders raise anything
        raise PSFError(
            f"{path} cannot be read as a PSF: {why_no_tiff(str(path), error, give=READABLE_PSF)}."
        ) from error
    if "S" in axes:
        raise PSFError(f"{path} is a colour image (axes {axes}); a PSF must be a grey-value image.")
    array = np.squeeze(array)
    return array, None if size is None or len(size) < array.ndim else size[-array.ndim :]


def read_psf_origin(path: str | os.PathLike[str]) -> PSFOrigin | None:
    """Read how a PSF was made, where bigdecon wrote it down; None for other files, whatever is wrong."""
    if Path(path).suffix.lower() == ".npy":
        return None
    try:
        with open_quietly(), tifffile.TiffFile(path) as tif:
            check_pages(tif)
            return PSFOrigin.from_text(str((tif.imagej_metadata or {}).get("Info", "")))
    except Exception:  # broken files make the decoders raise anything; `read_psf_file` says what
        return None


def _read_npy(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read a .npy file; mapping it first finds out whether it holds what its heading claims."""
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    _check_size(mapped.shape, mapped.dtype, Path(path).stat().st_size)
    return np.squeeze(np.array(mapped))


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any], stored: int) -> None:
    """Refuse what is no image of numbers, is far larger than a PSF, or unpacks to far more than it should."""
    if dtype.kind not in "uif":
        raise ValueError(f"it holds values of type {dtype}; a PSF holds integers or real numbers")
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_PSF_BYTES:
        raise ValueError(
            f"its shape {shape} takes {size / 2**30:.3g} GiB, and a PSF has at most "
            f"{MAX_PSF_BYTES >> 30} GiB; cut it to the part that holds light"
        )
    if size > max(stored * MAX_RATIO, 2**20):
        raise ValueError(f"its shape {shape} takes {size} bytes, but the file has only {stored}")


def write_psf_file(
    path: str | os.PathLike[str],
    array: NDArray[np.float32],
    voxel_size_um: Sizes | None,
    origin: PSFOrigin | None = None,
) -> None:
    """Write an array (z, y, x) or (y, x) as float32 TIFF that ImageJ opens, with its voxel size in µm.

    How the PSF was made goes into ImageJ's "Info", which its menu Image > Show Info shows.

    Raises
    ------
    OSError
        if the file cannot be written
    """
    size, ndim = voxel_size_um, array.ndim
    metadata = {"axes": "zyx"[-ndim:].upper(), "unit": "micron" if size else "pixel"}
    if origin is not None:
        metadata["Info"] = origin.as_text()
    extra: dict[str, Any] = {}
    if size:
        extra["resolution"] = (1 / size[-1], 1 / size[-2])
    tifffile.imwrite(
        path,
        array,
        imagej=True,
        metadata=metadata | ({"spacing": size[0]} if size and ndim == 3 else {}),
        **extra,
    )


def _voxel_size_in_file(tif: tifffile.TiffFile) -> Sizes | None:
    """Voxel size (z, y, x) or (y, x) in micrometres, from OME-XML, ImageJ's metadata or resolution tags."""
    if tif.is_ome and tif.ome_metadata:
        return _ome_voxel_size(tif.ome_metadata)
    tags = tif.pages[0].tags  # type: ignore[union-attr]
    ratios = [tags[k].value if k in tags else (0, 1) for k in ("YResolution", "XResolution")]
    if not all(n and d for n, d in ratios):
        return None
    steps = [d / n for n, d in ratios]
    if tif.is_imagej:
        found = tif.imagej_metadata or {}
        unit = UNITS_UM.get(str(found.get("unit", "")).lower().strip())
        sizes = [float(found["spacing"]), *steps] if found.get("spacing") else steps
        return None if unit is None else _rounded(s * unit for s in sizes)
    # A plain TIFF knows no z step, and its tags are often a printer's 72 or 300 dpi.
    unit = {2: UNITS_UM["inch"], 3: UNITS_UM["cm"]}.get(int(tags["ResolutionUnit"].value), np.inf)
    return _rounded(s * unit for s in steps) if max(steps) * unit < 20 else None


def _ome_voxel_size(xml: str) -> Sizes | None:
    elements = ElementTree.fromstring(xml).iter()
    pixels = next((e for e in elements if str(e.tag).endswith("Pixels")), ElementTree.Element("Pixels"))
    sizes = []
    for axis in "ZYX":
        value, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        if value is not None and unit.lower() in UNITS_UM:
            sizes.append(float(value) * UNITS_UM[unit.lower()])
        elif axis != "Z":
            return None
    return _rounded(sizes)


def _rounded(sizes: Any) -> Sizes:
    """Nine figures: what is left of a voxel size that was stored as a ratio of whole numbers."""
    return tuple(float(f"{s:.9g}") for s in sizes)
