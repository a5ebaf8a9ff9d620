"""Point spread functions: read, correct, describe and save them.

The way of a measured or computed PSF, each step leaving one sentence in `PSF.corrections`:

    file → numbers checked → background off → centre found → [shift, resample, cut: one interpolation] → sum 1

Arrays are (z, y, x) or (y, x); the centre of an axis of extent n is voxel n // 2.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import scipy.interpolate
import scipy.ndimage
import scipy.stats
import tifffile
from numpy.typing import NDArray

from bigdecon.errors import PSFError

__all__ = [
    "PSF",
    "PSFReport",
    "PSFSymmetries",
    "check_psf",
    "find_centre",
    "load_psf",
    "psf_from_array",
    "read_psf_file",
    "save_psf",
    "symmetries",
]

Array = NDArray[np.float32]
Sizes = tuple[float, ...]

# Judgements that the corrections rest on; fractions of the peak, of the energy, or voxels.
BACKGROUND_ABOVE = 0.002  # a border darker than this part of the peak is no camera offset
BACKGROUND_SLOPE = 0.25  # an offset is flat: this much change a tenth further in means tails, not an offset
CENTRED_WITHIN = 0.02  # voxels; nearer than this is left alone
SAME_VOXEL_SIZE = 0.01  # relative
CROPPED_ENERGY = 0.001  # for each axis
SYMMETRIC_WITHIN = 0.05  # L1 distance to the mirrored PSF, as a part of the energy

UNITS_UM = {
    "nm": 1e-3, "nanometer": 1e-3, "nanometre": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "\\u00b5m": 1.0,
    "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0, "mm": 1e3, "millimeter": 1e3,
    "cm": 1e4, "centimeter": 1e4, "m": 1e6, "meter": 1e6, "inch": 25400.0, "å": 1e-4, "pm": 1e-6,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class PSF:
    """A point spread function that is ready for use.

    Attributes
    ----------
    array : (z, y, x) or (y, x), odd extents, not negative, sums to 1, centred at n // 2
    voxel_size_um : size of a voxel along every axis, in micrometres; None where unknown
    name : what to call it in messages
    corrections : what loading changed, one sentence each
    sha256 : identity of the final array and voxel size, as hexadecimal digits
    """

    array: Array
    voxel_size_um: Sizes | None = None
    name: str = "array"
    corrections: tuple[str, ...] = ()
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        """Compute the identity."""
        data = np.ascontiguousarray(self.array, dtype="<f4")
        head = (
            f"{data.shape} {None if self.voxel_size_um is None else [float(v) for v in self.voxel_size_um]}"
        )
        digest = hashlib.sha256(head.encode() + data.tobytes()).hexdigest()
        object.__setattr__(self, "sha256", digest)

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return self.array.ndim

    @property
    def radius(self) -> tuple[int, ...]:
        """Voxels on either side of the centre, for every axis."""
        return tuple(n // 2 for n in self.array.shape)


@dataclass(frozen=True)
class PSFSymmetries:
    """Under which turns of the image the blur stays the same.

    Attributes
    ----------
    flips : for every axis, whether mirroring it leaves the PSF as it is
    rot90 : whether a quarter turn in the yx plane leaves it as it is
    """

    flips: tuple[bool, ...]
    rot90: bool


@dataclass(frozen=True)
class PSFReport:
    """What a PSF looks like before loading, and what loading would do to it.

    Attributes
    ----------
    shape : extents in voxels
    voxel_size_um : its own voxel size; None where unknown
    centre_offset : centre minus the middle voxel n // 2 along every axis, in voxels
    background : level of the border in the file's units; 0 where it is no offset
    peak : highest value, in the file's units
    core_energy : part of the energy within one full width at half maximum of the centre (after corrections)
    fwhm_voxels : full width at half maximum along every axis; None where the PSF is wider than the array
    fwhm_um : the same in micrometres; None where the voxel size is unknown
    symmetries : see PSFSymmetries
    loaded_shape : extents after loading
    corrections : what loading would correct, one sentence each
    """

    shape: tuple[int, ...]
    voxel_size_um: Sizes | None
    centre_offset: Sizes
    background: float
    peak: float
    core_energy: float
    fwhm_voxels: tuple[float | None, ...]
    fwhm_um: tuple[float | None, ...] | None
    symmetries: PSFSymmetries
    loaded_shape: tuple[int, ...]
    corrections: tuple[str, ...]


def load_psf(
    path: str | os.PathLike[str],
    *,
    voxel_size_um: Sequence[float] | None = None,
    psf_voxel_size_um: Sequence[float] | None = None,
    ndim: int | None = None,
    max_shape: Sequence[int] | None = None,
) -> PSF:
    """Read a PSF from TIFF, ImageJ TIFF, OME-TIFF or .npy and make it ready for use.

    Parameters
    ----------
    path : the file
    voxel_size_um : the volume's voxel size, which the PSF is resampled to; None if unknown
    psf_voxel_size_um : the PSF's voxel size; None to take it from the file
    ndim : number of dimensions of the volume, if it must be checked
    max_shape : the largest useful extents (2N − 1 for a volume of extent N)

    Raises
    ------
    PSFError
        if the file cannot be read, or for the reasons given at `psf_from_array`
    """
    array, size_in_file = read_psf_file(path)
    return psf_from_array(
        array,
        voxel_size_um=voxel_size_um,
        psf_voxel_size_um=psf_voxel_size_um or size_in_file,
        ndim=ndim,
        max_shape=max_shape,
        name=Path(path).name,
    )


def psf_from_array(
    array: NDArray[Any],
    *,
    voxel_size_um: Sequence[float] | None = None,
    psf_voxel_size_um: Sequence[float] | None = None,
    ndim: int | None = None,
    max_shape: Sequence[int] | None = None,
    name: str = "array",
) -> PSF:
    """Make an array ready for use as a PSF; parameters as for `load_psf`.

    Shifting, resampling and cutting are one interpolation with quintic splines, in which an offset of
    the centre becomes a choice of sampling points, so that nothing wraps around.

    Raises
    ------
    PSFError
        if it has NaN, infinities, no energy or the wrong number of dimensions, or if a voxel size is
        known for only one of PSF and volume
    """
    data, scale = _checked(array, ndim or (None if voxel_size_um is None else len(voxel_size_um)), name)
    own = _sizes(psf_voxel_size_um, data.ndim, f"the PSF {name}")
    wanted = _sizes(voxel_size_um, data.ndim, "the volume")
    notes = []
    level = _background(data)
    if level:
        clean = _without_background(data, level)
        notes.append(_background_sentence(data, clean, level, scale))
        data = clean
    ratio, ratio_note = _ratio(own, wanted, data.ndim, name)
    centre = find_centre(data)
    half = _half_extents(data, centre, ratio, max_shape)
    result = _resample(data, centre, ratio, half)
    notes += [_centre_sentence(data.shape, centre), ratio_note, *_size_sentences(data, centre, ratio, half)]
    total = float(result.sum(dtype=np.float64))
    result *= np.float32(scale if abs(total * scale - 1) < 1e-6 else 1 / total)
    return PSF(result, wanted or own, name, tuple(note for note in notes if note))


def find_centre(data: NDArray[np.floating]) -> Sizes:
    """Find the centre of a PSF without background, in voxels and fractions of voxels.

    It is the fixed point of a centroid under a Gaussian window as wide as the PSF's core (the voxels
    above half of the maximum), so that far tails, noise and cut-off sides hardly move it, and a hollow,
    defocused PSF has its centre in its middle.
    """
    smooth = _smoothed(data)
    core = np.argwhere(smooth >= 0.5 * smooth.max())
    centre, sigma = core.mean(axis=0), np.maximum(2 * core.std(axis=0), 0.8)
    for _ in range(100):
        step = _centroid_step(data, centre, sigma)
        centre = centre + step
        if np.abs(step).max() < 1e-4:
            break
    return tuple(float(c) for c in centre)


def symmetries(psf: PSF) -> PSFSymmetries:
    """Measure under which mirrorings and turns a PSF stays the same.

    Two PSFs count as the same if the L1 distance between them, lightly smoothed against noise, is below
    5 % of the energy; a centre wrong by 0.02 voxel changes a PSF of 2.4 voxels FWHM by 3 %.
    """
    data = _smoothed(psf.array)
    flips = tuple(_alike(data, np.flip(data, axis)) for axis in range(data.ndim))
    y, x = data.shape[-2:]
    side = max(y, x)
    pad = [(0, 0)] * (data.ndim - 2) + [((side - n) // 2,) * 2 for n in (y, x)]
    square = np.pad(data, pad)
    return PSFSymmetries(flips, _alike(square, np.rot90(square, axes=(-2, -1))))


def check_psf(
    array: NDArray[Any],
    voxel_size_um: Sequence[float] | None = None,
    *,
    volume_voxel_size_um: Sequence[float] | None = None,
    name: str = "array",
) -> PSFReport:
    """Describe a PSF and what loading would correct in it.

    Parameters
    ----------
    array : (z, y, x) or (y, x)
    voxel_size_um : the PSF's own voxel size; None if unknown
    volume_voxel_size_um : the volume's; None to leave the sampling out of the question
    name : what to call it in messages

    Raises
    ------
    PSFError
        as `psf_from_array`
    """
    data, scale = _checked(array, None, name)
    own = _sizes(voxel_size_um, data.ndim, f"the PSF {name}")
    level = _background(data)
    clean = _without_background(data, level)
    psf = psf_from_array(
        array, voxel_size_um=volume_voxel_size_um or own, psf_voxel_size_um=own, ndim=data.ndim, name=name
    )
    centre, widths = find_centre(clean), _fwhm(clean)
    reach = [n if w is None else w for n, w in zip(clean.shape, widths, strict=True)]
    return PSFReport(
        shape=data.shape,
        voxel_size_um=own,
        centre_offset=tuple(c - n // 2 for c, n in zip(centre, data.shape, strict=True)),
        background=level * scale,
        peak=float(np.max(array)),
        core_energy=_energy_within(clean, centre, reach),
        fwhm_voxels=widths,
        fwhm_um=own and tuple(w and w * s for w, s in zip(widths, own, strict=True)),
        symmetries=symmetries(psf),
        loaded_shape=psf.array.shape,
        corrections=psf.corrections,
    )


def read_psf_file(path: str | os.PathLike[str]) -> tuple[NDArray[Any], Sizes | None]:
    """Read an array, without axes of extent 1, and the voxel size in micrometres (None if not in the file).

    Raises
    ------
    PSFError
        if there is no such file or it is no grey-value image
    """
    if not Path(path).is_file():
        raise PSFError(f"there is no PSF file {path}; give a TIFF, OME-TIFF or .npy file.")
    try:
        if Path(path).suffix.lower() == ".npy":
            return np.squeeze(np.load(path, allow_pickle=False)), None
        with tifffile.TiffFile(path) as tif:
            array, axes = tif.series[0].asarray(), tif.series[0].axes
            size = _voxel_size_in_file(tif)
    except Exception as error:  # broken files make the decoders raise anything
        raise PSFError(f"{path} cannot be read as a TIFF or .npy image: {error}.") from error
    if "S" in axes:
        raise PSFError(f"{path} is a colour image (axes {axes}); a PSF must be a grey-value image.")
    array = np.squeeze(array)
    return array, None if size is None or len(size) < array.ndim else size[-array.ndim :]


def save_psf(psf: PSF, path: str | os.PathLike[str]) -> None:
    """Write a PSF as float32 TIFF that ImageJ opens, with its voxel size.

    Raises
    ------
    OSError
        if the file cannot be written
    """
    size = psf.voxel_size_um
    metadata = {"axes": "zyx"[-psf.ndim :].upper(), "unit": "micron" if size else "pixel"}
    extra: dict[str, Any] = {}
    if size:
        extra["resolution"] = (1 / size[-1], 1 / size[-2])
    tifffile.imwrite(
        path,
        psf.array,
        imagej=True,
        metadata=metadata | ({"spacing": size[0]} if size and psf.ndim == 3 else {}),
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
    pixels = next(e for e in ElementTree.fromstring(xml).iter() if e.tag.endswith("Pixels"))
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


def _sizes(sizes: Sequence[float] | None, ndim: int, whose: str) -> Sizes | None:
    """Check voxel sizes; three of them serve a 2D image, whose z is ignored."""
    if sizes is None:
        return None
    if len(sizes) < ndim or not all(np.isfinite(s) and s > 0 for s in sizes):
        raise PSFError(
            f"the voxel size of {whose} must be {ndim} positive numbers in µm, not {tuple(sizes)}."
        )
    return tuple(float(s) for s in sizes[-ndim:])


def _checked(array: NDArray[Any], ndim: int | None, name: str) -> tuple[Array, float]:
    """Refuse what is no PSF; give it as float32 with its peak between 0.5 and 1, and the value of that 1.

    The scale is a power of two, so that a PSF which needs no correction comes back bit for bit.
    """
    array = np.squeeze(np.asarray(array))
    if array.dtype.kind not in "buif" or not array.size:
        raise PSFError(
            f"the PSF {name} has the type {array.dtype} and shape {array.shape}; it must be real numbers."
        )
    if array.ndim not in (2, 3) or (ndim is not None and array.ndim != ndim):
        raise PSFError(_dimensions_sentence(array, ndim, name))
    bad = np.count_nonzero(~np.isfinite(array)) if array.dtype.kind == "f" else 0
    if bad:
        raise PSFError(f"the PSF {name} has {bad} voxels that are NaN or infinite; all must be finite.")
    low, high, total = float(array.min()), float(array.max()), float(array.sum(dtype=np.float64))
    if low == high:
        raise PSFError(f"every voxel of the PSF {name} is {low:g}; a PSF needs a peak.")
    if total <= 0 or high <= 0:
        raise PSFError(f"the voxels of the PSF {name} sum to {total:g}; the sum must be positive.")
    work = np.float64 if array.dtype == np.float64 else np.float32
    scale = float(2.0 ** np.frexp(high)[1])
    return np.multiply(array, 1 / scale, dtype=work).astype(np.float32), scale


def _dimensions_sentence(array: NDArray[Any], ndim: int | None, name: str) -> str:
    start = f"the PSF {name} has {array.ndim} dimensions larger than 1, shape {array.shape}"
    if array.ndim == 3 and ndim == 2:
        plane = int(np.argmax(np.max(array, axis=(1, 2))))
        return f"{start}, but the image has 2; take one plane of it, such as {plane} (from 0), with the peak."
    if array.ndim == 2 and ndim == 3:
        return f"{start}, but the image has 3; give a PSF with z, y and x (bigdecon psf make computes one)."
    return f"{start}; it must have {ndim or '2 or 3'}."


def _smoothed(data: NDArray[np.floating]) -> Array:
    """Weights 1/4, 1/2, 1/4 along every axis: a hot pixel is no longer the peak."""
    result = np.asarray(data, np.float32)
    for axis in range(data.ndim):
        result = scipy.ndimage.convolve1d(result, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
    return result


def _background(data: Array) -> float:
    """Find the camera offset, in units of the data; 0 where the border is dark, or is the PSF's own tails.

    An offset is everywhere and flat. So it is sought at the darkest faces of the border (a widefield cone
    reaches the first and last plane, but not the sides near the focal plane), and believed only if
    it stays the same a tenth of the extent further inwards, where tails would rise.
    """
    pairs = _border_faces(data)
    levels = [_middle(outer) for outer, _ in pairs]
    darkest = int(np.argmin(levels))
    face = pairs[darkest][0]
    noise = 1.4826 * float(np.median(np.abs(face - levels[darkest])))
    alike = levels[darkest] + 4 * noise / np.sqrt(len(face))  # four standard errors of a face's level
    dark = [pair for pair, level in zip(pairs, levels, strict=True) if level <= alike]
    level = _middle(np.concatenate([outer for outer, _ in dark]))
    inside = _middle(np.concatenate([inner for _, inner in dark]))
    is_real = abs(level) > BACKGROUND_ABOVE * float(data.max())
    is_offset = is_real and abs(inside - level) < BACKGROUND_SLOPE * abs(level)
    return level if is_offset else 0.0


def _middle(values: Array) -> float:
    """Mean of the middle half: as robust as the median, and finer than the steps of 8-bit data."""
    return float(scipy.stats.trim_mean(values, 0.25))


def _border_faces(data: Array) -> list[tuple[Array, Array]]:
    """Voxels of every face, paired with those of the layer a tenth further in; sides only near the focus."""
    focal = data
    if data.ndim == 3:
        z, reach = int(np.argmax(_smoothed(data.max(axis=(1, 2))))), max(1, len(data) // 6)
        focal = data[max(0, z - reach) : z + reach + 1]
    faces = []
    for axis, n in enumerate(data.shape):
        block = data if axis == data.ndim - 3 else focal
        depth = max(1, n // 10)
        for outer, inner in ((0, depth), (n - 1, n - 1 - depth)):
            faces.append((block.take(outer, axis).ravel(), block.take(inner, axis).ravel()))
    return faces


def _without_background(data: Array, level: float) -> Array:
    """Subtract an offset, and its noise where it is all there is; nothing stays negative.

    Clipping alone would turn noise of standard deviation σ into a pedestal of 0.4 σ, which over a whole
    volume can outweigh the PSF. So where the mean of the neighbourhood is below 2 σ, it takes the
    voxel's place; where even it is lost in noise, the voxel becomes 0.
    """
    clean = data - np.float32(level)
    noise = _spread_below(clean)
    if not level or not noise:
        return np.asarray(np.maximum(clean, 0), dtype=np.float32)
    around = scipy.ndimage.gaussian_filter(clean, sigma=2, truncate=3)
    faint = np.where(around > 3 * _spread_below(around), around, np.float32(0))
    return np.asarray(np.where(around > 2 * noise, np.maximum(clean, 0), faint), dtype=np.float32)


def _spread_below(clean: Array) -> float:
    """Give the border's standard deviation around 0, from its negative voxels, which no tail has raised."""
    border = np.concatenate([outer for outer, _ in _border_faces(clean)])
    negative = border[border < 0].astype(np.float64)
    return float(np.sqrt(np.mean(negative**2))) if len(negative) else 0.0


def _background_sentence(data: Array, clean: Array, level: float, scale: float) -> str:
    before, after = (float(a.sum(dtype=np.float64)) for a in (data, clean))
    share = f"{level * scale:.4g} ({level / float(data.max()):.2%} of the peak)"
    change = f"{abs(1 - after / before):.1%} of the sum"
    return f"A background of {share} was {'removed' if level > 0 else 'added back'}, {change} with its noise."


def _centroid_step(
    data: Array, centre: NDArray[np.float64], sigma: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Give the way from `centre` to the centroid under a Gaussian window around it."""
    low = np.maximum(np.floor(centre - 3 * sigma), 0).astype(int)
    high = np.minimum(np.ceil(centre + 3 * sigma) + 1, data.shape).astype(int)
    part = data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    away = [np.arange(a, b) - c for a, b, c in zip(low, high, centre, strict=True)]
    windows = [np.exp(-0.5 * (d / s) ** 2) for d, s in zip(away, sigma, strict=True)]
    step = np.zeros(data.ndim)
    for axis in range(data.ndim):
        profile = part
        for other in reversed(range(data.ndim)):
            if other != axis:
                profile = np.tensordot(profile, windows[other].astype(np.float32), axes=(other, 0))
        weights = profile * windows[axis]
        step[axis] = (weights * away[axis]).sum() / weights.sum()
    return step


def _centre_sentence(shape: tuple[int, ...], centre: Sizes) -> str:
    offset = [c - n // 2 for c, n in zip(centre, shape, strict=True)]
    if max(map(abs, offset)) < CENTRED_WITHIN:
        return ""
    figures = ", ".join(f"{o:+.2f}" for o in offset)
    return (
        f"The centre lay {figures} voxel ({'zyx'[-len(shape) :]}) off the middle voxel and was moved there."
    )


def _ratio(own: Sizes | None, wanted: Sizes | None, ndim: int, name: str) -> tuple[Sizes, str]:
    """Volume's voxel size over the PSF's along every axis (1 where nearly equal), and what to say of it."""
    if own is None and wanted is None:
        return (1.0,) * ndim, "Voxel sizes of PSF and volume are both unknown; they were assumed equal."
    if own is None or wanted is None:
        known, unknown, flag = (
            ("volume", f"PSF {name}", "--psf-voxel-size")
            if own is None
            else (f"PSF {name}", "volume", "--voxel-size")
        )
        raise PSFError(
            f"the voxel size of the {known} is known ({_um(own or wanted)}) but not that of the {unknown}; "
            f"give it with {flag} Z Y X in µm."
        )
    ratio = tuple(w / o for w, o in zip(wanted, own, strict=True))
    ratio = tuple(1.0 if abs(r - 1) <= SAME_VOXEL_SIZE else r for r in ratio)
    changed = any(r != 1 for r in ratio)
    return ratio, f"It was resampled from voxels of {_um(own)} to {_um(wanted)}." if changed else ""


def _um(sizes: Sizes | None) -> str:
    return " × ".join(f"{s:.4g}" for s in sizes or ()) + " µm"


def _reach(n: int, centre: float, ratio: float) -> int:
    """Voxels on either side of the centre, at the new voxel size, that hold all there is along an axis."""
    return max(1, int(np.floor(max(centre, n - 1 - centre) / ratio + 0.5 - 1e-3)))


def _half_extents(data: Array, centre: Sizes, ratio: Sizes, limit: Sequence[int] | None) -> tuple[int, ...]:
    """Voxels to keep on either side: all but 0.1 % of the energy for each axis, within `limit`."""
    halves = []
    for axis, (n, c, r) in enumerate(zip(data.shape, centre, ratio, strict=True)):
        profile = _profile(data, axis)
        order = np.argsort(np.abs(np.arange(n) - c))
        outside = 1 - np.cumsum(profile[order]) / profile.sum()
        needed = float(np.abs(np.arange(n) - c)[order][int(np.argmax(outside < CROPPED_ENERGY))])
        half = min(max(1, int(np.floor(needed / r + 0.5 - 1e-3))), _reach(n, c, r))
        halves.append(half if limit is None else min(half, max(0, (limit[axis] - 1) // 2)))
    return tuple(halves)


def _profile(data: Array, axis: int) -> NDArray[np.float64]:
    others = tuple(a for a in range(data.ndim) if a != axis)
    return data.sum(axis=others, dtype=np.float64)  # type: ignore[no-any-return]


def _size_sentences(data: Array, centre: Sizes, ratio: Sizes, half: tuple[int, ...]) -> list[str]:
    """Report the odd size and the cropping; energies are those along the axes, one by one."""
    terms = list(zip(data.shape, centre, ratio, strict=True))
    full = tuple(2 * _reach(*term) + 1 for term in terms)
    final = tuple(2 * h + 1 for h in half)
    sentences = []
    if any(n % 2 == 0 and r == 1 for n, r in zip(data.shape, ratio, strict=True)):
        sentences.append(f"The size {data.shape} was made odd, {full}.")
    if final != full:
        kept = 1.0
        for axis, (n, c, r) in enumerate(terms):
            profile, far = _profile(data, axis), np.abs(np.arange(n) - c) > (half[axis] + 0.5) * r
            kept -= float(profile[far].sum() / profile.sum())
        sentences.append(f"It was cropped from {full} to {final}, which keeps {kept:.2%} of its energy.")
    return sentences


def _resample(data: Array, centre: Sizes, ratio: Sizes, half: tuple[int, ...]) -> Array:
    """Sample around the centre; repeated if clipping or coarse voxels moved it a little."""
    for _ in range(3):
        result, moved = data, False
        for axis in range(data.ndim):
            terms = (data.shape[axis], centre[axis], ratio[axis], half[axis])
            whole = _is_whole(centre[axis], ratio[axis])
            moved |= not whole
            matrix = _selection(*terms) if whole else _spline_weights(*terms)
            result = np.moveaxis(np.tensordot(matrix, result, axes=(1, axis)), 0, axis)
        result = np.maximum(result, 0)
        error = np.subtract(find_centre(result), half)
        if not moved or np.abs(error).max() < CENTRED_WITHIN / 4:
            break
        centre = tuple(
            c if _is_whole(c, r) else c + e * r for c, e, r in zip(centre, error, ratio, strict=True)
        )
    return np.ascontiguousarray(result)


def _is_whole(centre: float, ratio: float) -> bool:
    return ratio == 1 and abs(centre - round(centre)) < CENTRED_WITHIN


def _selection(n: int, centre: float, ratio: float, half: int) -> Array:
    """Matrix that picks 2 half + 1 voxels around the centre, zero beyond the array."""
    return np.eye(2 * half + 1, n, round(centre) - half, dtype=np.float32)


def _spline_weights(n: int, centre: float, ratio: float, half: int) -> Array:
    """Matrix (2 half + 1, n) that takes an axis of n voxels to new voxels `ratio` times as large.

    Old voxels are joined by a quintic spline (zero beyond the array). Where voxels grow it is averaged
    over a box of width √(ratio² − 1), which together with the old voxel is as wide as the new one.
    """
    margin = 24  # by then the influence of a voxel on the spline is below 1e-8
    known = np.zeros((n + 2 * margin, n))
    known[margin : margin + n] = np.eye(n)
    spline = scipy.interpolate.make_interp_spline(np.arange(-margin, n + margin), known, k=5)
    low, high = -margin, n + margin - 1
    at = centre + ratio * np.arange(-half, half + 1)
    if ratio <= 1:
        weights = spline(np.clip(at, low, high))
    else:
        integral, reach = spline.antiderivative(), np.sqrt(ratio**2 - 1) / 2
        ends = integral(np.clip(at + reach, low, high)) - integral(np.clip(at - reach, low, high))
        weights = ends / (2 * reach)
    return np.asarray(weights, np.float32)


def _alike(a: Array, b: Array) -> bool:
    return bool(np.abs(a - b).sum(dtype=np.float64) < SYMMETRIC_WITHIN * a.sum(dtype=np.float64))


def _fwhm(data: Array) -> tuple[float | None, ...]:
    """Width of the stretch above half of the maximum along lines through the brightest voxel."""
    peak = tuple(int(i) for i in np.unravel_index(int(np.argmax(data)), data.shape))
    widths: list[float | None] = []
    for axis in range(data.ndim):
        line = np.moveaxis(data, axis, -1)[peak[:axis] + peak[axis + 1 :]] / data[peak] - 0.5
        below, p = np.flatnonzero(line < 0), peak[axis]
        right, left = below[below > p], below[below < p]
        if not (len(right) and len(left)):
            widths.append(None)
            continue
        a, b = int(left[-1]), int(right[0])
        ends = b - line[b] / (line[b] - line[b - 1]), a + line[a] / (line[a] - line[a + 1])
        widths.append(float(ends[0] - ends[1]))
    return tuple(widths)


def _energy_within(data: Array, centre: Sizes, reach: Sequence[float]) -> float:
    box = tuple(
        slice(max(0, int(np.ceil(c - r))), int(np.floor(c + r)) + 1)
        for c, r in zip(centre, reach, strict=True)
    )
    return float(data[box].sum(dtype=np.float64) / data.sum(dtype=np.float64))
