import json
import os
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from bigdecon.config import RunConfig, TilingConfig
from bigdecon.errors import OutputError
from bigdecon.io.output_folder import is_own_output
from bigdecon.io.provenance import (
    CurvePoint,
    Provenance,
    PSFRecord,
    RunRecord,
    TrainingRecord,
    fingerprint,
    input_identity,
    read_run,
    write_run,
)
from bigdecon.io.reading import open_volume
from bigdecon.io.writing import write_ome_zarr
from bigdecon.volume import Volume

PSF = PSFRecord("bead.tif", "ab12", ("the background of 3 counts was subtracted",), (0.5, 0.2, 0.2))


def stored(path, *, seed=0):
    data = np.random.default_rng(seed).random((4, 20, 30), "float32")
    write_ome_zarr(Volume.from_array(data, voxel_size_um=(1, 1, 1)), path, overwrite=True)
    return open_volume(path)


def test_identity_of_a_zarr_image(tmp_path):
    volume = stored(tmp_path / "a")
    first = input_identity(volume)
    assert input_identity(open_volume(tmp_path / "a")) == first
    crop = input_identity(volume.crop((slice(0, 2), slice(0, 20), slice(0, 30))))
    assert crop.digest == first.digest
    assert crop.selection != first.selection
    chunk = next(p for p in (tmp_path / "a/0/c").rglob("*") if p.is_file())
    os.utime(chunk, ns=(1, 1))
    assert input_identity(volume) == first, "a copy elsewhere has other times"
    good = chunk.read_bytes()
    chunk.write_bytes(good[:-1] + b"x")
    changed = input_identity(volume)
    assert changed.digest == first.digest
    assert [f.name for f in changed.changed_files(first.files)] == [str(chunk.relative_to(tmp_path / "a/0"))]


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_identity_of_a_tiff(tmp_path, compression):
    data = np.arange(600, dtype="uint16").reshape(20, 30)
    tifffile.imwrite(tmp_path / "a.tif", data, compression=compression)
    first = input_identity(open_volume(tmp_path / "a.tif"))
    os.utime(tmp_path / "a.tif", ns=(1, 1))
    assert input_identity(open_volume(tmp_path / "a.tif")) == first
    tifffile.imwrite(tmp_path / "a.tif", data + 1, compression=compression)
    assert input_identity(open_volume(tmp_path / "a.tif")).changed_files(first.files)


def test_identity_of_an_array_is_its_content():
    data = np.arange(600, dtype="uint16").reshape(20, 30)
    first = input_identity(Volume.from_array(data))
    assert input_identity(Volume.from_array(data.astype(">u2"))) == first
    assert input_identity(Volume.from_array(data + 1)).digest != first.digest


def test_identity_on_a_server(http_folder):
    folder, url, _ = http_folder
    stored(folder / "a")
    first = input_identity(open_volume(f"{url}/a"))
    assert input_identity(open_volume(f"{url}/a")) == first
    data = np.zeros((4, 20, 30), "float32")
    write_ome_zarr(Volume.from_array(data, voxel_size_um=(1, 1, 1)), folder / "a", overwrite=True)
    assert input_identity(open_volume(f"{url}/a")).changed_files(first.files)


def test_fingerprint_follows_what_affects_voxels():
    identity = input_identity(Volume.from_array(np.ones((4, 4))))
    config = RunConfig("in.zarr", ("psf.tif",))

    def of(config=config, psf=PSF, identity=identity, further=None):
        return fingerprint(config.as_dict(), [psf], identity, further)

    same = [
        of(replace(config, output="b.zarr", workers=3, threads=2, overwrite=True, cluster="tcp://h:1")),
        of(replace(config, tiling=TilingConfig(engine="direct"))),
        of(psf=replace(PSF, name="copy.tif")),
        of(identity=replace(identity, location="/moved")),
    ]
    assert set(same) == {of()}
    other = [
        of(replace(config, seed=1)),
        of(replace(config, dtype="uint16")),
        of(replace(config, tiling=TilingConfig(block=64))),
        of(psf=replace(PSF, sha256="cd")),
        of(identity=replace(identity, digest="x")),
        of(further={"model": "x"}),
    ]
    assert len({of(), *other}) == 7


def record():
    provenance = Provenance(
        configuration=RunConfig("in.zarr", ("psf.tif",)).as_dict(),
        psfs=(PSF,),
        input=input_identity(Volume.from_array(np.ones((4, 4)))),
        seed=0,
        device="cpu",
        training=(TrainingRecord((0,), "12", "steps", (CurvePoint(1, float("nan"), 0.5),)),),
    )
    return RunRecord("f" * 64, provenance.as_json())


def test_what_opens_an_address_is_not_recorded(tmp_path):
    signed = "https://me:hush@host/a.zarr?X-Amz-Signature=hush"
    known = replace(input_identity(Volume.from_array(np.ones((4, 4)))), location=signed)
    config = RunConfig(signed, ("psf.tif",), model=signed)
    provenance = Provenance(config.as_dict(), (PSF,), known, 0, "cpu").as_json()
    write_run(tmp_path / "run.json", RunRecord("f" * 64, {**provenance, "more": signed}, work={"of": signed}))
    assert "hush" not in json.dumps(provenance) + (tmp_path / "run.json").read_text()
    assert provenance["input"]["location"] == "https://host/a.zarr"


def test_run_record_comes_back(tmp_path):
    path = tmp_path / "run.json"
    assert read_run(path) is None
    write_run(path, record())
    again = read_run(path)
    assert again == record() or again.provenance["created"] != record().provenance["created"]
    assert again.provenance["versions"]["bigdecon"]
    assert again.provenance["training"][0]["curve"] == [{"step": 1, "loss": None, "held_out": 0.5}]
    assert again.provenance["psfs"][0]["corrections"] == list(PSF.corrections)
    assert not again.finished
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_newer_and_damaged_records_are_refused_by_name(tmp_path):
    path = tmp_path / "run.json"
    write_run(path, record())
    content = json.loads(path.read_text())
    for changed, message in (
        ({**content, "format": 9}, "format 9, written by a newer bigdecon"),
        ({"format": 1}, "fingerprint"),
        ([1], "damaged"),
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(OutputError, match=message):
            read_run(path)
    path.write_text("{")
    with pytest.raises(OutputError, match=r"run\.json is damaged"):
        read_run(path)


INPUT = {"digest": "", "shape": []}
TEXT_STATS = {"chosen": {"stats": [dict.fromkeys(("mean", "std", "minimum", "maximum", "background"), "1")]}}
ODD_STATS = {"chosen": {"stats": [{"x": 1}]}}
DAMAGED = {
    "format is true": {"format": True},
    "format is a text": {"format": "1"},
    "mark is a number": {"fingerprint": 5},
    "provenance is a list": {"provenance": [1]},
    "finished is a text": {"finished": "no"},
    "work is a list": {"work": [1]},
    "no configuration": {"provenance": {"psfs": [], "input": INPUT}},
    "PSFs are numbers": {"provenance": {"configuration": {}, "psfs": [1], "input": INPUT}},
    "input is empty": {"provenance": {"configuration": {}, "psfs": [], "input": {}}},
    "chosen is a list": {"provenance": {"configuration": {"chosen": [1]}, "psfs": [], "input": INPUT}},
    "stats of texts": {"provenance": {"configuration": TEXT_STATS, "psfs": [], "input": INPUT}},
    "stats of other names": {"provenance": {"configuration": ODD_STATS, "psfs": [], "input": INPUT}},
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_record_of_other_types_is_refused(tmp_path, case):
    path = tmp_path / "run.json"
    write_run(path, record())
    path.write_text(json.dumps(json.loads(path.read_text()) | DAMAGED[case]))
    with pytest.raises(OutputError, match=r"run\.json is damaged .*--overwrite") as caught:
        read_run(path)
    assert "\n" not in str(caught.value)


@pytest.mark.timeout(30)
def test_a_record_that_is_no_document_is_refused(tmp_path):
    path = tmp_path / "run.json"
    for content in (b"\xff\xfe\x00", b"[" * 10**5, b'{"format": 1, "format": 1}'):
        path.write_bytes(content)
        with pytest.raises(OutputError, match=r"run\.json is damaged"):
            read_run(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OutputError, match="no regular file"):
        read_run(path)


@pytest.mark.parametrize(
    "content", [b"[1]", b"7", b"[" * 10**5, b'{"attributes": [1]}', b'{"attributes": {"bigdecon": 1}}']
)
def test_odd_attributes_are_no_mark_of_ours(tmp_path, content):
    (tmp_path / "zarr.json").write_bytes(content)
    assert not is_own_output(tmp_path)
