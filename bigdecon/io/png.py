"""Grey PNG pictures as 2D images: test images often come as such."""

from __future__ import annotations

import os
import warnings

import numpy as np

from bigdecon.errors import VolumeError
from bigdecon.io.stores import is_url
from bigdecon.untrusted import check_regular
from bigdecon.volume import Volume

__all__ = ["is_png", "read_png"]


def is_png(path: str | os.PathLike[str]) -> bool:
    """Whether a path or URL ends like a PNG picture."""
    return os.fspath(path).lower().endswith(".png")


def read_png(path: str | os.PathLike[str]) -> Volume:
    """Read a grey picture into memory, as float32 from 0 to 1 of its depth; transparency is left out.

    Raises
    ------
    VolumeError
        if it cannot be read, lies on a server, or has colours
    """
    location = os.fspath(path)
    if is_url(location):
        raise VolumeError(f"{location} is a PNG on a server; download it first.")
    import matplotlib.image
    from PIL.Image import DecompressionBombError, DecompressionBombWarning

    try:
        check_regular(location)
        # Pillow warns from 89 megapixels on, and refuses twice as many.
        with open(location, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", DecompressionBombWarning)
            data = matplotlib.image.imread(file, format="png")
    except DecompressionBombError as error:
        raise VolumeError(f"{location} cannot be read: it has too many pixels for a picture.") from error
    except (OSError, SyntaxError, ValueError) as error:  # a SyntaxError is Pillow's word for damaged chunks
        cause = getattr(error, "strerror", None) or "no PNG picture, or a damaged one"
        raise VolumeError(f"{location} cannot be read: {cause}.") from error
    if data.ndim == 3:
        colours = data[..., :3] if data.shape[-1] > 2 else data[..., :1]
        if (colours != colours[..., :1]).any():
            raise VolumeError(f"{location} is in colour; save one of its channels as a grey image.")
        data = colours[..., 0]
    return Volume.from_array(np.ascontiguousarray(data, np.float32), "yx", name=os.path.basename(location))
