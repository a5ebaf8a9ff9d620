"""The corrections of a PSF, one by one; `psf.psf_from_array` puts them in order.

    numbers checked → background off → centre found → [shift, resample, cut: one interpolation]

Each comes with the sentence that tells the user of it. Arrays are (z, y, x) or (y, x), float32 with the
peak between 0.5 and 1; positions and extents are in voxels, voxel sizes in micrometres.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from bigdecon.errors import PSFError
from bigdecon.optics.trimmed_mean import trimmed_mean

__all__ = [
    "LARGEST_VOXEL_UM",
    "SIZES_UNKNOWN",
    "background_sentence",
    "centre_sentence",
    "checked_numbers",
    "checked_sizes",
    "find_background",
    "find_centre",
    "half_extents",
    "resample",
    "size_sentences",
    "smoothed",
    "voxel_size_ratio",
    "without_background",
    "without_noise",
]

Array = NDArray[np.float32]
Sizes = tuple[float, ...]

LARGEST_VOXEL_UM = 100
"""Larger sizes are nanometres by mistake."""
SIZES_UNKNOWN = "Voxel sizes of PSF and volume are both unknown; they were assumed equal."

# Judgements that the corrections rest on; fractions of the peak, of the energy, or voxels.
BACKGROUND_ABOVE = 0.002  # a border darker than this part of the peak is no camera offset
BACKGROUND_SLOPE = 0.25  # an offset is flat: this much change a tenth further in means tails, not an offset
CENTRED_WITHIN = 0.02  # voxels; nearer than this is left alone
SAME_VOXEL_SIZE = 0.01  # relative
CROPPED_ENERGY = 0.001  # for each axis


# --- numbers -------------------------------------------------------------------------------------


def checked_numbers(array: NDArray[Any], ndim: int | None, name: str) -> tuple[Array, float]:
    """Refuse what is no PSF; give it as float32 with its peak between 0.5 and 1, and the value of that 1.

    The scale is a power of two, so that a PSF which needs no correction comes back bit for bit.

    Raises
    ------
    PSFError
        if it has NaN, infinities, no peak, no energy or the wrong number of dimensions
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


def checked_sizes(sizes: Sequence[float] | None, ndim: int, whose: str) -> Sizes | None:
    """Check voxel sizes; three of them serve a 2D image, whose z is ignored.

    Raises
    ------
    PSFError
        if there are too few, or one is not a positive number, or too large to be one in micrometres
    """
    if sizes is None:
        return None
    if len(sizes) < ndim or not all(np.isfinite(s) and s > 0 for s in sizes):
        raise PSFError(
            f"the voxel size of {whose} must be {ndim} positive numbers in µm, not {tuple(sizes)}."
        )
    largest = max(sizes[-ndim:])
    if largest > LARGEST_VOXEL_UM:
        raise PSFError(
            f"the voxel size of {whose}, {largest:g} µm, is none of a microscope; give it in micrometres, "
            f"so {largest:g} nm is {largest / 1000:g}."
        )
    return tuple(float(s) for s in sizes[-ndim:])


def smoothed(data: NDArray[np.floating]) -> Array:
    """Weights 1/4, 1/2, 1/4 along every axis: a hot pixel is no longer the peak."""
    result = np.asarray(data, np.float32)
    for axis in range(data.ndim):
        result = scipy.ndimage.convolve1d(result, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
    return result


# --- background ----------------------------------------------------------------------------------


def find_background(data: Array) -> float:
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


def without_background(data: Array, level: float) -> Array:
    """Subtract an offset, and its noise where it is all there is; nothing stays negative.

    Clipping alone would turn noise of standard deviation σ into a pedestal of 0.4 σ, which over a whole
    volume can outweigh the PSF. So where the mean of the neighbourhood is below 2 σ, it takes the
    voxel's place; where even it is lost in noise, the voxel becomes 0.
    """
    clean = data - np.float32(level)
    return without_noise(clean) if level else np.asarray(np.maximum(clean, 0), dtype=np.float32)


def without_noise(clean: Array) -> Array:
    """Take off the noise of a PSF whose background is 0; see `without_background`."""
    noise = _spread_below(clean)
    if not noise:
        return np.asarray(np.maximum(clean, 0), dtype=np.float32)
    around = scipy.ndimage.gaussian_filter(clean, sigma=2, truncate=3)
    faint = np.where(around > 3 * _spread_below(around), around, np.float32(0))
    return np.asarray(np.where(around > 2 * noise, np.maximum(clean, 0), faint), dtype=np.float32)


def background_sentence(data: Array, clean: Array, level: float, scale: float) -> str:
    """Tell the offset, in the file's units, and what taking it off did to the sum of all voxels."""
    before, after = (float(a.sum(dtype=np.float64)) for a in (data, clean))
    share = f"{level * scale:.4g} ({level / float(data.max()):.2%} of the peak)"
    change = f"{abs(1 - after / before):.1%} of the sum"
    return f"A background of {share} was {'removed' if level > 0 else 'added back'}, {change} with its noise."


def _middle(values: Array) -> float:
    """Mean of the middle half: as robust as the median, and finer than the steps of 8-bit data."""
    return trimmed_mean(values, 0.25)


def _border_faces(data: Array) -> list[tuple[Array, Array]]:
    """Voxels of every face, paired with those of the layer a tenth further in; sides only near the focus."""
    focal = data
    if data.ndim == 3:
        z, reach = int(np.argmax(smoothed(data.max(axis=(1, 2))))), max(1, len(data) // 6)
        focal = data[max(0, z - reach) : z + reach + 1]
    faces = []
    for axis, n in enumerate(data.shape):
        block = data if axis == data.ndim - 3 else focal
        depth = max(1, n // 10)
        for outer, inner in ((0, depth), (n - 1, n - 1 - depth)):
            faces.append((block.take(outer, axis).ravel(), block.take(inner, axis).ravel()))
    return faces


def _spread_below(clean: Array) -> float:
    """Give the border's standard deviation around 0, from its negative voxels, which no tail has raised."""
    border = np.concatenate([outer for outer, _ in _border_faces(clean)])
    negative = border[border < 0].astype(np.float64)
    return float(np.sqrt(np.mean(negative**2))) if len(negative) else 0.0


# --- centre --------------------------------------------------------------------------------------


def find_centre(data: NDArray[np.floating]) -> Sizes:
    """Find the centre of a PSF without background, in voxels and fractions of voxels.

    It is the fixed point of a centroid under a Gaussian window as wide as the PSF's core (the voxels
    above half of the maximum), so that far tails, noise and cut-off sides hardly move it, and a hollow,
    defocused PSF has its centre in its middle.
    """
    smooth = smoothed(data)
    core = np.argwhere(smooth >= 0.5 * smooth.max())
    centre, sigma = core.mean(axis=0), np.maximum(2 * core.std(axis=0), 0.8)
    for _ in range(100):
        step = _centroid_step(data, centre, sigma)
        centre = centre + step
        if np.abs(step).max() < 1e-4:
            break
    return tuple(float(c) for c in centre)


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


def centre_sentence(shape: tuple[int, ...], centre: Sizes) -> str:
    """Tell how far the centre lay from the middle voxel n // 2; empty if nothing was moved."""
    offset = [c - n // 2 for c, n in zip(centre, shape, strict=True)]
    if max(map(abs, offset)) < CENTRED_WITHIN:
        return ""
    figures = ", ".join(f"{o:+z.2f}" for o in offset)
    return (
        f"The centre lay {figures} voxel ({'zyx'[-len(shape) :]}) off the middle voxel and was moved there."
    )


# --- sampling and size ---------------------------------------------------------------------------


def voxel_size_ratio(own: Sizes | None, wanted: Sizes | None, ndim: int, name: str) -> tuple[Sizes, str]:
    """Volume's voxel size over the PSF's along every axis (1 where nearly equal), and what to say of it.

    Raises
    ------
    PSFError
        if a voxel size is known for only one of PSF and volume
    """
    if own is None and wanted is None:
        return (1.0,) * ndim, SIZES_UNKNOWN
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


def half_extents(data: Array, centre: Sizes, ratio: Sizes, limit: Sequence[int] | None) -> tuple[int, ...]:
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


def size_sentences(data: Array, centre: Sizes, ratio: Sizes, half: tuple[int, ...]) -> list[str]:
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


def _reach(n: int, centre: float, ratio: float) -> int:
    """Voxels on either side of the centre, at the new voxel size, that hold all there is along an axis."""
    return max(1, int(np.floor(max(centre, n - 1 - centre) / ratio + 0.5 - 1e-3)))


def _profile(data: Array, axis: int) -> NDArray[np.float64]:
    others = tuple(a for a in range(data.ndim) if a != axis)
    return data.sum(axis=others, dtype=np.float64)  # type: ignore[no-any-return]


def resample(data: Array, centre: Sizes, ratio: Sizes, half: tuple[int, ...]) -> Array:
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
    from scipy.interpolate import make_interp_spline  # takes 0.3 s, which every worker would wait for

    margin = 24  # by then the influence of a voxel on the spline is below 1e-8
    known = np.zeros((n + 2 * margin, n))
    known[margin : margin + n] = np.eye(n)
    spline = make_interp_spline(np.arange(-margin, n + margin), known, k=5)
    low, high = -margin, n + margin - 1
    at = centre + ratio * np.arange(-half, half + 1)
    if ratio <= 1:
        weights = spline(np.clip(at, low, high))
    else:
        integral, reach = spline.antiderivative(), np.sqrt(ratio**2 - 1) / 2
        ends = integral(np.clip(at + reach, low, high)) - integral(np.clip(at - reach, low, high))
        weights = ends / (2 * reach)
    return np.asarray(weights, np.float32)
