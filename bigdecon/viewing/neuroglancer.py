"""What neuroglancer is told: which images, side by side, in which colours and with the same contrast.

Its Python package brings the pages and a small server for them; nothing is loaded from the internet. The
voxels go straight from our file server to the browser.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from bigdecon.errors import OptionError
from bigdecon.io.reading import inspect_volume, open_volume
from bigdecon.volume import Channel, Volume

__all__ = ["ViewedImage", "common_contrast", "is_installed", "look_at", "viewer", "viewer_state"]

PERCENTILES = (0.1, 99.9)
SAMPLE_ZYX = (64, 512, 512)
"""Voxels of the coarsest level that are looked at for the contrast, at most."""
PANEL_PIXELS = 500
"""About the smaller side of a panel."""
SHADER = """#uicontrol invlerp contrast
#uicontrol vec3 color color(default="#{color}")
void main() {{
  emitRGB(color * contrast());
}}
"""


class ViewedImage(NamedTuple):
    """An image that is shown.

    Attributes
    ----------
    name : "input" or "result"
    url : of the store, as the browser reaches it
    axes : one letter an axis
    channels : names and colours
    limits : darkest and brightest value to be shown, for every channel, in data units
    voxel_size_um : along the spatial axes of the finest level; None where unknown
    shape : extent of the spatial axes, in voxels
    """

    name: str
    url: str
    axes: str
    channels: tuple[Channel, ...]
    limits: tuple[tuple[float, float], ...]
    voxel_size_um: tuple[float, ...] | None
    shape: tuple[int, ...]


def is_installed() -> bool:
    """Whether neuroglancer's Python package is there; it brings its pages with it."""
    return importlib.util.find_spec("neuroglancer") is not None


@contextmanager
def viewer(state: dict[str, Any], *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve neuroglancer while the block lasts; gives the address of its page.

    Parameters
    ----------
    state : of `viewer_state`
    host, port : to listen on; port 0 takes any that is free

    Raises
    ------
    OptionError
        if the address cannot be listened on
    """
    import neuroglancer

    neuroglancer.set_server_bind_address(host, bind_port=port)
    try:
        shown = neuroglancer.Viewer()
    except OSError as error:
        raise OptionError(
            f"the address {host} port {port} cannot be listened on ({error.strerror or error}); "
            "choose another port, or 0 for any that is free."
        ) from error
    try:
        shown.set_state(state)
        yield str(shown.get_viewer_url())
    finally:
        neuroglancer.stop()


def look_at(location: str, name: str, url: str) -> ViewedImage:
    """Read what a viewer is to know of an image: metadata, and the contrast of the coarsest level.

    Raises
    ------
    VolumeError
        if there is no readable image
    """
    coarsest = len(inspect_volume(location).levels) - 1
    volume = open_volume(location, level=coarsest)
    limits = tuple(_limits(volume, channel) for channel in range(volume.n_channels))
    finest = open_volume(location)
    size, shape = finest.voxel_size_um, finest.spatial_shape
    return ViewedImage(name, url, volume.axes, volume.channels, limits, size, shape)


def _limits(volume: Volume, channel: int) -> tuple[float, float]:
    """Measure percentiles 0.1 and 99.9 in the middle of the first time point."""
    extents = zip(volume.spatial_shape, SAMPLE_ZYX[-len(volume.spatial_axes) :], strict=True)
    box = tuple(slice((n - min(n, most)) // 2, (n + min(n, most)) // 2) for n, most in extents)
    values = volume.stack(channel=channel)[box]
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, PERCENTILES))
    return low, high if high > low else low + 1.0


def common_contrast(images: Sequence[ViewedImage]) -> list[ViewedImage]:
    """Show the same channel of all images from the darkest to the brightest value that one of them needs."""
    if len({len(image.channels) for image in images}) > 1:
        return list(images)
    pairs = zip(*(image.limits for image in images), strict=True)
    limits = tuple((min(low for low, _ in some), max(high for _, high in some)) for some in pairs)
    return [image._replace(limits=limits) for image in images]


def viewer_state(images: Sequence[ViewedImage]) -> dict[str, Any]:
    """Give neuroglancer's state: a layer for every channel, and a panel for every image.

    Parameters
    ----------
    images : from left to right
    """
    layers = [_layer(image, i) for image in images for i in range(len(image.channels))]
    flat = all("z" not in image.axes for image in images)
    layout = "xy" if flat or len(images) > 1 else "4panel"
    panels = [
        {
            "type": "viewer",
            "layers": [_layer_name(image, i) for i in range(len(image.channels))],
            "layout": layout,
        }
        for image in images
    ]
    return {
        "layers": layers,
        "layout": panels[0] if len(panels) == 1 else {"type": "row", "children": panels},
        "dimensions": _dimensions(images[-1]),
        "crossSectionScale": _scale(images[-1]) * (2 if layout == "4panel" else 1),
        "crossSectionBackgroundColor": "#000000",
        "showAxisLines": False,
        "selectedLayer": {"layer": layers[0]["name"], "visible": False},
    }


def _dimensions(image: ViewedImage) -> dict[str, Any]:
    """Give the axes in the order in which panels show them, x to the right and y down, in metres."""
    axes = [axis for axis in image.axes if axis in "zyx"]
    sizes = image.voxel_size_um and [(step * 1e-6, "m") for step in image.voxel_size_um]
    return {
        axis: list(s)
        for axis, s in zip(reversed(axes), reversed(sizes or [(1, "")] * len(axes)), strict=True)
    }


def _scale(image: ViewedImage) -> float:
    """Give the voxels of the smallest side for each pixel of a panel that the image is to fill."""
    size = image.voxel_size_um or (1.0,) * len(image.shape)
    return (
        max(n * step / min(size) for n, step in zip(image.shape[-2:], size[-2:], strict=True)) / PANEL_PIXELS
    )


def _layer_name(image: ViewedImage, channel: int) -> str:
    label = image.channels[channel].name
    if len(image.channels) == 1 and label in ("", "channel 0"):
        return image.name
    return f"{image.name}: {label or channel}"


def _layer(image: ViewedImage, channel: int) -> dict[str, Any]:
    low, high = image.limits[channel]
    layer: dict[str, Any] = {
        "type": "image",
        "name": _layer_name(image, channel),
        "source": f"zarr://{image.url}",
        "blend": "additive",
        "opacity": 1,
        "shader": SHADER.format(color=image.channels[channel].color.lower()),
        "shaderControls": {"contrast": {"range": [low, high], "window": [low, high]}},
    }
    if "c" in image.axes:  # which has a slider of its own in each layer
        layer |= {"localDimensions": {"c'": [1, ""]}, "localPosition": [channel]}
    return layer
