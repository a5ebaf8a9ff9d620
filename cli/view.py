"""`bigdecon view`: show a result, beside its input, in the browser."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from bigdecon.errors import OptionError, VolumeError

if TYPE_CHECKING:
    from pathlib import Path

    from bigdecon.viewing.file_server import FileServer

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command("view", short_help="Show a result, beside its input, in the browser.")
@click.argument("output_path", metavar="OUT")
@click.option(
    "--input", "input_path", metavar="IMAGE", help="Show this OME-Zarr beside it, with the same contrast."
)
@click.option(
    "--port",
    default=0,
    show_default="any that is free",
    help="Of the voxels; the viewer's own is one higher.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; by default only this machine can look.",
)
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open the viewer in a browser.")
def command(output_path: str, input_path: str | None, port: int, host: str, browser: bool) -> None:
    """Show OUT, an OME-Zarr on this machine, in a browser until Ctrl-C is pressed.

    The viewer is neuroglancer, from pip install "bigdecon[view]"; nothing comes from the internet. Without
    it, the addresses are printed for other viewers. Files are only read, and only those of OUT and IMAGE.

    \b
    Examples:
      bigdecon view volume.deconvolved.ome.zarr --input volume.ome.zarr
      bigdecon view volume.deconvolved.ome.zarr --no-browser --port 8765
    """  # noqa: D301
    from bigdecon.io.image_paths import check_image_path

    for path in (input_path, output_path):
        if path:
            check_image_path(path)
    from bigdecon.viewing.file_server import FileServer
    from bigdecon.viewing.neuroglancer import common_contrast, is_installed, look_at, viewer, viewer_state

    result = _store(output_path)
    roots = {"input": _store(input_path, beside=result)} if input_path else {}
    roots["result"] = result
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            server = stack.enter_context(FileServer(roots, host=host, port=port, stores=True))
            if is_installed():
                images = [look_at(str(root), name, f"{server.url}/{name}") for name, root in roots.items()]
                state = viewer_state(common_contrast(images))
                page = stack.enter_context(viewer(state, host=host, port=port and port + 1))
                click.echo(f"Viewer:     {page}")
                _open_browser(page, wanted=browser)
            else:
                click.echo('Viewer:     not installed; pip install "bigdecon[view]" brings neuroglancer.')
            click.echo("\n".join(describe(server, roots, host)))
            sys.stdout.flush()
            threading.Event().wait()
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)


def describe(server: FileServer, roots: dict[str, Path], host: str) -> list[str]:
    """Give the addresses, and what to do with them, in lines."""
    from bigdecon.io.provenance import is_unfinished

    url = f"{server.url}/result"
    lines = [f"{name.capitalize() + ':':<11} {server.url}/{name}" for name in roots]
    lines.append(f"napari:     napari --plugin napari-ome-zarr {roots['result']}")
    if host in LOOPBACK:  # elsewhere the address, told to another site, would open the images to it
        lines += [
            "Others, whose pages come from the internet; the voxels stay in your browser:",
            f"  https://hms-dbmi.github.io/vizarr/?source={url}",
            f"  https://ome.github.io/ome-ngff-validator/?source={url}",
        ]
    if is_unfinished(roots["result"]):
        lines.append("This result is not finished: parts of it are empty.")
    if host not in LOOPBACK:
        lines.append("Whoever reaches this machine and knows the address can read the images.")
    elif "SSH_CONNECTION" in os.environ:
        lines.append(
            f"From your own machine: ssh -L {server.port}:127.0.0.1:{server.port}, and the viewer's port too."
        )
    return [*lines, "Ctrl-C ends it."]


def _store(path: str, beside: Path | None = None) -> Path:
    """Give the folder of an OME-Zarr on this machine.

    Parameters
    ----------
    path : as it was given
    beside : a result of this image, with its voxel size

    Raises
    ------
    OptionError
        if it is elsewhere
    VolumeError
        if it is no OME-Zarr, or has no voxel size where the result has one: they would not lie side by side
    """
    from bigdecon.io.reading import inspect_volume
    from bigdecon.storage.object_path import ObjectPath
    from bigdecon.storage.places import as_place

    place = as_place(path)
    if isinstance(place, ObjectPath):
        raise OptionError(
            f"{place} is not on this machine; copy it here first (aws s3 sync, or bigdecon convert {place} "
            "copy.ome.zarr), or give a viewer its https address if the bucket may be read and allows CORS."
        )
    found, missing = inspect_volume(place), _missing_size(place, beside)
    if not found.format.startswith("OME-Zarr"):
        raise VolumeError(
            f"{path} is {found.format}, which browsers cannot read; make an OME-Zarr of it first, and give "
            f"that: {_conversion(path, place, missing)}"
        )
    if missing:
        raise VolumeError(
            f"{path} has no voxel size, and the result has one: they would not lie side by side; make a copy "
            f"that has it, and give that: {_conversion(path, place, missing, '_sized')}"
        )
    return place


def _missing_size(place: Path, beside: Path | None) -> str:
    """Give the option that an image without a voxel size needs for `convert`; "" where nothing is missing."""
    from bigdecon.io.reading import open_volume

    if beside is None or open_volume(place).voxel_size_um is not None:
        return ""
    size = open_volume(beside).voxel_size_um
    if not size:
        return ""
    return (
        f" --voxel-size {' '.join(f'{s:g}' for s in (1.0, *size)[-3:])}"  # in 2D the first counts for nothing
    )


def _conversion(path: str, place: Path, options: str, suffix: str = "") -> str:
    """Give the command that makes an OME-Zarr of an image, to be pasted as it is."""
    target = f"{place.name.partition('.')[0]}{suffix}.ome.zarr"
    return f"bigdecon convert {shlex.quote(path)} {shlex.quote(target)}{options}"


def _open_browser(page: str, *, wanted: bool) -> None:
    """Open a page where there is a screen; a browser in the terminal could show nothing of it."""
    screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if wanted and screen:
        import webbrowser

        webbrowser.open(page)
