import importlib.util
import os
import pathlib
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile

from bigdecon.errors import ReadError, VolumeError
from bigdecon.io.reading import inspect_volume, open_volume
from bigdecon.io.tiff_pages import TiffSeries, packed_pages
from bigdecon.volume import Channel

OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def image(shape, dtype="uint16"):
    return np.random.default_rng(7).integers(0, 120, shape).astype(dtype)


def open_files():
    """List what this process has open, where Linux tells."""
    if not os.path.isdir("/proc/self/fd"):
        return []
    return [
        os.readlink(f"/proc/self/fd/{n}")
        for n in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{n}")
    ]


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64", "uint32", "float16"]
)
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib", "rowsperstrip": 7},
        {"compression": "zlib", "tile": (16, 32), "predictor": True},
        {"contiguous": False},
        {"bigtiff": True},
    ],
    ids=["plain", "strips", "tiles", "scattered", "big"],
)
def test_any_packing(tmp_path, dtype, byteorder, options):
    if options.get("predictor") and np.dtype(dtype).kind == "f":
        options = {**options, "predictor": False}
    data = image((4, 33, 50), dtype)
    path = tmp_path / "a.tif"
    if options.get("contiguous") is False:
        with tifffile.TiffWriter(path, byteorder=byteorder) as writer:
            for plane in data:
                writer.write(
                    plane, photometric="minisblack", rowsperstrip=5, contiguous=False, compression="zlib"
                )
    else:
        tifffile.imwrite(path, data, byteorder=byteorder, photometric="minisblack", **options)
    volume = pickle.loads(pickle.dumps(open_volume(path)))
    assert (volume.axes, volume.dtype) == ("zyx", np.dtype(dtype))
    assert volume.dtype.isnative
    assert np.array_equal(np.asarray(volume), data)
    box = (slice(1, 3), slice(6, 31), slice(13, 45))
    part = volume.stack()[box]
    assert part.dtype.isnative
    assert np.array_equal(part, data[box])
    assert not any(name.endswith("a.tif") for name in open_files())


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_threads(tmp_path, compression):
    data = image((12, 40, 50))
    tifffile.imwrite(tmp_path / "a.tif", data, compression=compression, photometric="minisblack")
    stack = open_volume(tmp_path / "a.tif").stack()
    boxes = [(slice(z, z + 3), slice(0, 40), slice(z, 50)) for z in range(9)] * 4
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(stack.__getitem__, boxes))
    assert all(np.array_equal(part, data[box]) for part, box in zip(parts, boxes, strict=True))


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="counts bytes the Linux way")
def test_a_crop_reads_little(tmp_path):
    data = image((50, 64, 64))
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack")
    stack = open_volume(tmp_path / "a.tif").stack()
    counts = pathlib.Path("/proc/self/io")
    before = int(counts.read_text().split()[1])
    stack[slice(3, 5), slice(0, 8), slice(0, 64)]
    after = int(counts.read_text().split()[1])
    assert after - before < 64 * 1024  # the file has 400 KiB; Python's own reading is in there too


@pytest.mark.parametrize("unit", ["µm", "nm", "mm"])
@pytest.mark.parametrize("axes", ["TCZYX", "TZCYX", "CZYX", "ZYX", "YX"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_ome_tiff(tmp_path, unit, axes, compression):
    extent = {"T": 2, "C": 3, "Z": 4, "Y": 20, "X": 30}
    data = image([extent[a] for a in axes])
    factor = {"µm": 1, "nm": 1e-3, "mm": 1e3}[unit]
    metadata = {"axes": axes, "TimeIncrement": 2.5, "TimeIncrementUnit": "min"}
    for axis, size in zip("ZYX", (3.0, 2.0, 1.0), strict=True):
        metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    if "C" in axes:
        metadata["Channel"] = {"Name": ["a", "b", "c"], "Color": [16711935, 65535, -1]}
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, data, metadata=metadata, compression=compression, photometric="minisblack")
    volume = open_volume(path)
    order = "".join(a for a in "TCZYX" if a in axes)
    assert volume.axes == order.lower()
    assert np.array_equal(np.asarray(volume), data.transpose([axes.index(a) for a in order]))
    n = len(volume.spatial_axes)
    assert volume.voxel_size_um == pytest.approx(tuple(s * factor for s in (3.0, 2.0, 1.0)[-n:]))
    if "C" in axes:
        assert volume.channels == (Channel("a", "00FF00"), Channel("b", "0000FF"), Channel("c", "FFFFFF"))
    if "T" in axes:
        assert (volume.time_step, volume.time_unit) == (2.5, "minute")


@pytest.mark.parametrize(
    ("unit", "pixels_per_unit", "spacing", "size_um"),
    [
        ("um", 5, 0.5, (0.5, 0.2, 0.2)),
        ("\\u00B5m", 5, 0.5, (0.5, 0.2, 0.2)),
        ("micron", 5, 0.5, (0.5, 0.2, 0.2)),
        ("nm", 0.005, 500, (0.5, 0.2, 0.2)),
        ("mm", 5000, 0.0005, (0.5, 0.2, 0.2)),
        ("inch", 127000, 0.0005 / 25.4, (0.5, 0.2, 0.2)),
        ("pixel", 1, 1, None),
        ("um", 5, None, None),
    ],
)
def test_imagej(tmp_path, unit, pixels_per_unit, spacing, size_um):
    data = image((3, 20, 30))
    metadata = {"axes": "ZYX", "unit": unit} | ({"spacing": spacing} if spacing else {})
    tifffile.imwrite(
        tmp_path / "a.tif", data, imagej=True, resolution=(pixels_per_unit,) * 2, metadata=metadata
    )
    volume = open_volume(tmp_path / "a.tif")
    assert inspect_volume(tmp_path / "a.tif").format == "ImageJ TIFF"
    assert volume.voxel_size_um == (None if size_um is None else pytest.approx(size_um, rel=1e-4))
    assert np.array_equal(np.asarray(volume), data)


def test_imagej_hyperstack_is_put_in_order(tmp_path):
    data = image((2, 3, 4, 20, 30))  # ImageJ stores TZCYX
    metadata = {"axes": "TZCYX", "unit": "um", "spacing": 1, "finterval": 3.0}
    tifffile.imwrite(tmp_path / "a.tif", data, imagej=True, resolution=(1, 1), metadata=metadata)
    volume = open_volume(tmp_path / "a.tif", channel=2)
    assert volume.axes == "tczyx"
    assert volume.time_step == 3
    assert np.array_equal(np.asarray(volume), data.transpose(0, 2, 1, 3, 4)[:, 2:3])


@pytest.mark.parametrize(
    ("unit", "value", "size_um"), [("CENTIMETER", 50000, 0.2), ("INCH", 127000, 0.2), ("INCH", 72, None)]
)
def test_resolution_tags_of_plain_tiff(tmp_path, unit, value, size_um):
    tifffile.imwrite(tmp_path / "a.tif", image((20, 30)), resolution=(value, value), resolutionunit=unit)
    size = open_volume(tmp_path / "a.tif").voxel_size_um
    assert size == (None if size_um is None else pytest.approx((size_um, size_um), rel=1e-4))


def test_pyramidal_ome_tiff(tmp_path):
    data = image((2, 64, 64))
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1, "PhysicalSizeZ": 0.5}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        writer.write(data, subifds=1, metadata=metadata, tile=(32, 32), compression="zlib")
        writer.write(data[:, ::2, ::2], subfiletype=1, tile=(32, 32), compression="zlib")
    coarse = open_volume(tmp_path / "a.ome.tif", level=1)
    assert np.array_equal(np.asarray(coarse), data[:, ::2, ::2])
    assert coarse.voxel_size_um == pytest.approx((0.5, 0.2, 0.2))
    with pytest.raises(VolumeError, match="it has 2 levels"):
        open_volume(tmp_path / "a.ome.tif", level=2)


def test_colour_and_unclear_axes_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "rgb.tif", image((20, 30, 3), "uint8"), photometric="rgb")
    with pytest.raises(VolumeError, match="colour"):
        open_volume(tmp_path / "rgb.tif")
    tifffile.imwrite(tmp_path / "q.tif", image((2, 3, 20, 30)), photometric="minisblack")
    with pytest.raises(VolumeError, match="axes"):
        open_volume(tmp_path / "q.tif")
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((20, 30), "complex64"), photometric="minisblack")
    with pytest.raises(VolumeError, match="complex64"):
        open_volume(tmp_path / "c.tif")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_truncated_file(tmp_path, compression):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image((6, 64, 64)), photometric="minisblack", compression=compression)
    stack = open_volume(path).stack()
    data = stack[slice(0, 1), slice(0, 64), slice(0, 64)]
    with tifffile.TiffFile(path) as tiff:
        end = (
            tiff.pages[0].dataoffsets[0] + 3 * data.nbytes
            if compression is None
            else tiff.pages[4].dataoffsets[0] + 9
        )
    os.truncate(path, end)
    read_on, opened_again = r"plane z=\d of .*a\.tif", r"a\.tif (no longer holds the image|.* cut short)"
    with pytest.raises(ReadError, match=f"{read_on}|{opened_again}"):
        stack[slice(0, 6), slice(0, 64), slice(0, 64)]
    path.unlink()
    with pytest.raises(ReadError, match=r"a\.tif"):
        stack[slice(0, 6), slice(0, 64), slice(0, 64)]


def test_compression_that_nothing_here_decodes(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image((20, 30)), compression="zlib", photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(34933)  # PNG: needs imagecodecs
    if importlib.util.find_spec("imagecodecs") is None:
        with pytest.raises(VolumeError, match="imagecodecs"):
            open_volume(path)


@pytest.mark.parametrize("keep_size", [False, True])
def test_a_file_that_is_replaced_gives_its_own_pages(tmp_path, keep_size):
    first, second = image((5, 24, 32)), image((5, 24, 32))[::-1] // 3
    options = {"compression": None if keep_size else "zlib", "photometric": "minisblack", "rowsperstrip": 8}
    if keep_size:  # pages apart from one another: read page by page, though nothing is compressed
        options |= {"tile": (16, 16)}
    path, new = tmp_path / "a.tif", tmp_path / "new.tif"
    tifffile.imwrite(path, first, **options)
    tifffile.imwrite(new, second, **options)
    os.utime(new, ns=(0, path.stat().st_mtime_ns + 1000))
    assert (path.stat().st_size == new.stat().st_size) == keep_size
    volume = open_volume(path)
    assert np.array_equal(np.asarray(volume), first)
    new.replace(path)
    assert np.array_equal(np.asarray(volume), second)


@pytest.mark.parametrize("other", [image((4, 24, 32)), image((5, 24, 32), "uint8"), image((5, 24, 16))])
def test_another_kind_of_image_in_its_place_is_refused(tmp_path, other):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image((5, 24, 32)), compression="zlib", photometric="minisblack")
    volume = open_volume(path)
    np.asarray(volume)
    tifffile.imwrite(path, other, compression="zlib", photometric="minisblack")
    with pytest.raises(ReadError, match="no longer holds the image"):
        np.asarray(volume)
    path.unlink()
    with pytest.raises(ReadError, match="cannot be opened any more"):
        np.asarray(volume)


def test_a_file_that_is_replaced_between_looking_and_reading_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image((5, 24, 32)), compression="zlib", photometric="minisblack")
    wanted = TiffSeries(str(path), 0, 0, (5, 24, 32), np.dtype("uint16"))
    pages = packed_pages(wanted)
    tifffile.imwrite(path, image((5, 24, 32)) // 3, compression="zlib", photometric="minisblack")
    with pytest.raises(ValueError, match="changed while it was being read"):
        pages.read_plane(0, range(24), range(32), np.zeros((24, 32), "uint16"))
    assert packed_pages(wanted) is not pages


def write_channel_files(folder, data, **options):
    """Write an OME-TIFF of one file a channel; data is (c, z, y, x)."""
    names = [f"c{c}.ome.tif" for c in range(len(data))]
    n_c, n_z, n_y, n_x = data.shape
    parts = "".join(
        f'<TiffData FirstC="{c}" FirstZ="{z}" FirstT="0" IFD="{z}" PlaneCount="1">'
        f'<UUID FileName="{names[c]}">urn:uuid:{c}</UUID></TiffData>'
        for c in range(n_c)
        for z in range(n_z)
    )
    channels = "".join(f'<Channel ID="Channel:0:{c}" SamplesPerPixel="1"/>' for c in range(n_c))
    for c, name in enumerate(names):
        xml = (
            f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{OME}" UUID="urn:uuid:{c}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
            f'SizeX="{n_x}" SizeY="{n_y}" SizeZ="{n_z}" SizeC="{n_c}" SizeT="1">{channels}{parts}'
            "</Pixels></Image></OME>"
        )
        tifffile.imwrite(
            folder / name, data[c], description=xml, metadata=None, photometric="minisblack", **options
        )
    return [folder / name for name in names]


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_an_image_in_several_files_is_read(tmp_path, options):
    data = image((2, 5, 24, 32))
    first, _ = write_channel_files(tmp_path, data, **options)
    np.testing.assert_array_equal(np.asarray(open_volume(first)), data)


def test_a_further_file_that_is_replaced_is_refused_once_and_looked_through_again(tmp_path):
    data = image((2, 5, 24, 32))
    first, second = write_channel_files(tmp_path, data, compression="zlib")
    volume = open_volume(first)
    np.asarray(volume)
    kept = first.read_bytes()
    times = (first.stat().st_atime_ns, first.stat().st_mtime_ns)
    write_channel_files(tmp_path, data // 3, compression="zlib")
    first.write_bytes(kept)
    os.utime(first, ns=times)
    with pytest.raises(ReadError, match="changed while it was being read"):
        np.asarray(volume)
    np.testing.assert_array_equal(np.asarray(volume), [data[0], data[1] // 3])
    assert str(second) not in open_files()
