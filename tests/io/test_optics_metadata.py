"""Objective and light of an image: read from OME metadata, kept on the way, and given by options."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tifffile

from bigdecon.acquisition import UNKNOWN_OBJECTIVE, Channel, Objective
from bigdecon.config import RunConfig
from bigdecon.errors import OptionError
from bigdecon.io.reading import open_volume
from bigdecon.io.tiff_writing import write_ome_tiff
from bigdecon.io.writing import write_ome_zarr
from bigdecon.running.run_inputs import open_input
from bigdecon.volume import Volume

XML = """<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
<Instrument ID="Instrument:0"><Objective ID="Objective:0" LensNA="0.5" Immersion="Air"/>
<Objective ID="Objective:1" LensNA="1.4" Immersion="{immersion}"/></Instrument>
<Image ID="Image:0"><ObjectiveSettings ID="Objective:1"{settings}/>
<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="8" SizeY="8" SizeZ="2" SizeC="1" SizeT="1"
><Channel ID="Channel:0:0" Name="dapi" EmissionWavelength="{light}"{unit}/><TiffData/>
</Pixels></Image></OME>"""


def ome_tiff(path, **entries):
    text = XML.format(**{"immersion": "Oil", "settings": "", "light": "461", "unit": "", **entries})
    tifffile.imwrite(path, np.zeros((2, 8, 8), np.uint16), description=text.encode(), metadata=None)
    return open_volume(path)


@pytest.mark.parametrize(
    ("entries", "index", "light"),
    [
        ({}, 1.515, 0.461),
        ({"immersion": "Water"}, 1.333, 0.461),
        ({"settings": ' RefractiveIndex="1.512"'}, 1.512, 0.461),
        ({"light": "0.461", "unit": ' EmissionWavelengthUnit="µm"'}, 1.515, 0.461),
        ({"immersion": "Other", "light": "nonsense"}, None, None),
        ({"settings": ' RefractiveIndex="-4"', "light": "1e30"}, 1.515, None),
    ],
)
def test_ome_xml_names_the_objective_of_the_image(tmp_path, entries, index, light):
    volume = ome_tiff(tmp_path / "image.ome.tif", **entries)
    assert volume.objective == Objective(1.4, index)
    assert volume.channels[0].emission_um == light


@pytest.fixture
def volume():
    values = np.random.default_rng(0).poisson(9, (2, 3, 9, 10)).astype("uint16")
    plain = Volume.from_array(values, "czyx", voxel_size_um=(0.3, 0.1, 0.1))
    channels = (Channel("a", "FF0000", 0.461), Channel("b"))
    return replace(plain, objective=Objective(1.4, 1.515), channels=channels)


@pytest.mark.parametrize("form", ["0.4", "0.5", "tiff"])
def test_copies_keep_it(tmp_path, volume, form):
    path = tmp_path / ("copy.ome.tif" if form == "tiff" else "copy.ome.zarr")
    if form == "tiff":
        write_ome_tiff(volume, path, dtype="uint16", name="copy")
    else:
        write_ome_zarr(volume, path, dtype="uint16", ome_version=form)
    copy = open_volume(path)
    assert copy.objective == volume.objective
    assert copy.channels == volume.channels
    assert copy.select(channels=[1]).channels[0].emission_um is None


def test_where_nothing_is_known_nothing_is_written(tmp_path, volume):
    unknown = replace(volume, objective=UNKNOWN_OBJECTIVE, channels=(Channel("a"), Channel("b")))
    write_ome_zarr(unknown, tmp_path / "a.ome.zarr", dtype="uint16")
    assert "bigdecon_optics" not in (tmp_path / "a.ome.zarr" / "zarr.json").read_text()
    assert open_volume(tmp_path / "a.ome.zarr").objective == UNKNOWN_OBJECTIVE


def test_what_is_given_goes_before_the_metadata(tmp_path):
    ome_tiff(tmp_path / "image.ome.tif")
    config = RunConfig(str(tmp_path / "image.ome.tif"), ())
    assert open_input(config).objective == Objective(1.4, 1.515)
    given = open_input(replace(config, na=0.8, wavelength=0.6))
    assert given.objective == Objective(0.8, 1.515)
    assert given.channels[0] == Channel("dapi", "FFFFFF", 0.6)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"wavelength": 520.0}, "520 nm is 0.52"),
        ({"na": 14.0}, "--na is 14"),
        ({"na": 2.5}, "--na is 2.5; .* between 0.01 and 2"),
        ({"na": 0.001}, "between 0.01 and 2"),
        ({"refractive_index": 0.5}, "water 1.33"),
        (
            {"na": 1.4, "refractive_index": 1.0},
            r"of 1.4 \(given\) needs .* than 1 \(given\); .* oil has 1.515",
        ),
        ({"na": 1.6}, r"1.6 \(given\) needs .* than 1.515 \(of the image's metadata\)"),
        ({"refractive_index": 1.33}, r"1.4 \(of the image's metadata\) needs .* than 1.33 \(given\)"),
    ],
)
def test_impossible_optics_are_refused(tmp_path, given, words):
    ome_tiff(tmp_path / "image.ome.tif")
    with pytest.raises(OptionError, match=words):
        open_input(RunConfig(str(tmp_path / "image.ome.tif"), (), **given))


def test_one_wavelength_for_several_channels_is_refused(tmp_path, volume):
    write_ome_zarr(volume, tmp_path / "a.ome.zarr", dtype="uint16")
    config = RunConfig(str(tmp_path / "a.ome.zarr"), (), wavelength=0.5)
    with pytest.raises(OptionError, match="choose one with --channel"):
        open_input(config)
    assert open_input(replace(config, channel=("1",))).channels[0].emission_um == 0.5
