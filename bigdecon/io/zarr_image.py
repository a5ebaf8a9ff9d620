"""Find the image in a Zarr store: OME-Zarr of any version, or a plain array."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zarr.abc.store import Store

from bigdecon.errors import VolumeError
from bigdecon.io.guarded_store import open_guarded, read_document
from bigdecon.io.image_file import ImageInfo, LevelInfo, check_planes
from bigdecon.io.ome_metadata import parse_multiscale, plain_axes
from bigdecon.io.optics_metadata import with_emission, zarr_objective
from bigdecon.io.zarr_source import ZarrSource, open_zarr_source
from bigdecon.storage.servers import is_denied, is_url
from bigdecon.untrusted import parse_json, reason, shown

__all__ = ["ZarrImage", "open_zarr_image"]

REMEDY = "; give the folder of an OME-Zarr image"


@dataclass(frozen=True)
class ZarrImage:
    """A Zarr store whose metadata has been read.

    Attributes
    ----------
    info : what the image says about itself
    zarr_format : 2 or 3
    follow_links : whether links may lead out of a local store
    """

    info: ImageInfo
    zarr_format: int
    follow_links: bool = False

    def source(self, level: int) -> ZarrSource:
        """Describe the array of one level.

        Raises
        ------
        VolumeError
            if the array is missing or does not fit the axes
        """
        where = (self.info.location, self.info.levels[level].path, self.zarr_format)
        source = open_zarr_source(*where, follow_links=self.follow_links)
        if len(source.shape) != len(self.info.axes):
            raise VolumeError(
                f"{source.address} has {len(source.shape)} dimensions {source.shape} "
                f"but the image has the axes {self.info.axes}."
            )
        if min(source.shape) == 0:
            raise VolumeError(f"{source.address} is empty: its shape is {source.shape}.")
        check_planes(source.address, self.info.axes, source.shape)
        return source


@dataclass(frozen=True)
class Node:
    """The metadata of one place in a Zarr hierarchy.

    Attributes
    ----------
    zarr_format : 2 or 3
    is_array : array or group
    attributes : the user attributes
    dimension_names : of a Zarr 3 array
    """

    zarr_format: int
    is_array: bool
    attributes: dict[str, Any]
    dimension_names: tuple[str | None, ...] | None = None

    @property
    def ome(self) -> dict[str, Any]:
        """The OME attributes, wherever the version keeps them."""
        nested = self.attributes.get("ome")
        return nested if isinstance(nested, dict) else self.attributes


def _read_json(store: Store, location: str, key: str) -> dict[str, Any] | None:
    try:
        data = read_document(store, key)
        parsed = None if data is None else parse_json(data)
    except VolumeError:
        raise
    except Exception as error:
        if is_url(location) and is_denied(error):
            return None
        raise VolumeError(
            f"{location}/{key} cannot be read ({reason(error)}); "
            "check the address, the permissions and the file."
        ) from error
    if parsed is not None and not isinstance(parsed, dict):
        raise VolumeError(f"{location}/{key} is no Zarr metadata: it holds a {type(parsed).__name__}.")
    return parsed


def _read_node(store: Store, location: str) -> Node | None:
    """Read what lies at the root of a store; None where that is no Zarr node."""
    v3 = _read_json(store, location, "zarr.json")
    if v3 is not None:
        kind, names = v3.get("node_type"), v3.get("dimension_names")
        if kind not in ("array", "group"):
            raise VolumeError(
                f"{location}/zarr.json has the node_type {shown(kind)}; it must be 'array' or 'group'."
            )
        attributes = _attributes(v3.get("attributes"), f"{location}/zarr.json")
        return Node(3, kind == "array", attributes, tuple(names) if isinstance(names, list) else None)
    is_array = _read_json(store, location, ".zarray") is not None
    attributes = _attributes(_read_json(store, location, ".zattrs"), f"{location}/.zattrs")
    if not is_array and not attributes and _read_json(store, location, ".zgroup") is None:
        return None
    return Node(2, is_array, attributes)


def _attributes(value: object, address: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise VolumeError(f"{address} has the attributes {shown(value)}; they must be a JSON object.")
    return value or {}


def open_zarr_image(location: str, *, follow_links: bool = False) -> ZarrImage:
    """Find the image at a path or URL: a multiscale group, an array, or a folder with one image inside.

    Parameters
    ----------
    location : absolute path or URL
    follow_links : whether links may lead out of a local store; the store itself may always be a link

    Raises
    ------
    VolumeError
        if there is nothing, or nothing that is an image
    """
    node = _read_node(open_guarded(location, follow_links=follow_links), location)
    if node is None:
        denied = " that may be read" if is_url(location) else ""
        raise VolumeError(
            f"{location} is no Zarr image: there is no zarr.json, .zgroup or .zarray{denied}; "
            "give the folder of an OME-Zarr image, or a TIFF file."
        )
    if node.is_array:
        return _plain_array(location, node, follow_links)
    if node.ome.get("multiscales"):
        return ZarrImage(_parsed(node, location), node.zarr_format, follow_links)
    if "bioformats2raw.layout" in node.ome:
        return _only_series(location, follow_links)
    raise VolumeError(_why_no_image(location, node))


def _parsed(node: Node, location: str) -> ImageInfo:
    try:
        info = parse_multiscale(node.ome, location, node.zarr_format)
        channels = with_emission(info.channels, node.attributes)
        return replace(info, channels=channels, objective=zarr_objective(node.attributes))
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise VolumeError(f"the OME metadata of {location} is malformed ({reason(error)}).") from error


def _plain_array(location: str, node: Node, follow_links: bool) -> ZarrImage:
    source = open_zarr_source(location, "", node.zarr_format, follow_links=follow_links)
    axes = plain_axes(len(source.shape), node.dimension_names, location)
    n_spatial = sum(axis in "zyx" for axis in axes)
    info = ImageInfo(
        location=location,
        format=f"Zarr array, format {node.zarr_format}",
        axes=axes,
        levels=(LevelInfo("", None, (0.0,) * n_spatial),),
        notes=("A plain array has no voxel size.",),
    )
    return ZarrImage(info, node.zarr_format, follow_links)


def _only_series(location: str, follow_links: bool) -> ZarrImage:
    """Open the image of a bioformats2raw collection that holds just one."""
    first, second = f"{location}/0", f"{location}/1"
    if _read_node(open_guarded(second, follow_links=follow_links), second) is not None:
        raise VolumeError(f"{location} holds several images; give the path of one, such as {first}.")
    store = open_guarded(location, follow_links=follow_links)
    found = any(_read_json(store, location, f"0/{name}") for name in ("zarr.json", ".zattrs", ".zgroup"))
    if not found:
        raise VolumeError(f"{location} is a collection of images, but there is no image {first}.")
    return open_zarr_image(first, follow_links=follow_links)


def _why_no_image(location: str, node: Node) -> str:
    if "plate" in node.ome or "well" in node.ome:
        return f"{location} is a plate or a well; give the path of one image in it, such as {location}/A/1/0."
    inside: list[str] = []
    if not is_url(location):
        found = (
            p.parent for name in ("zarr.json", ".zarray", ".zgroup") for p in Path(location).glob(f"*/{name}")
        )
        inside = sorted({p.name for p in found})
    hint = f"; it holds {', '.join(inside[:8])}: give the path of one of them" if inside else ""
    return f"{location} is a Zarr group without an image (no multiscales){hint or REMEDY}."
