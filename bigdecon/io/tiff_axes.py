"""The axes of an image in a TIFF file, as volumes have them."""

from __future__ import annotations

from typing import Any

from bigdecon.errors import VolumeError

__all__ = ["known_axes"]


def known_axes(location: str, series: Any) -> str:
    """Give the file's axes in lower case; one unnamed axis before y and x counts as z.

    Parameters
    ----------
    location : path or URL, for messages
    series : one image of an open `tifffile.TiffFile`

    Raises
    ------
    VolumeError
        if they make no image
    """
    letters = str(series.axes).upper()
    unknown = [letter for letter in letters if letter not in "TCZYX"]
    if len(unknown) == 1 and unknown[0] in "IQ" and "Z" not in letters:
        letters, unknown = letters.replace(unknown[0], "Z"), []
    if "S" in unknown:
        raise VolumeError(
            f"{location} is a colour image (axes {letters}, shape {series.shape}); "
            "save its channels as separate grey planes."
        )
    if unknown or len(set(letters)) != len(letters) or not letters.endswith("YX"):
        raise VolumeError(
            f"{location} has the axes {letters} with shape {series.shape}; "
            "they must be some of T, C, Z, Y, X with Y, X at the end: save it as OME-TIFF or OME-Zarr."
        )
    return letters.lower()
