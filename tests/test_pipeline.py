"""`run` from input to result: what comes out, that it stays in its place, and that nothing is done twice."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import yaozarrs
import zarr
from scipy.ndimage import gaussian_filter

from bigdecon import pipeline
from bigdecon.config import RunConfig, TilingConfig
from bigdecon.deconvolution.lease import Lease
from bigdecon.distributed.progress import Message, RegionDone, StageStarted, TrainingProgress
from bigdecon.errors import ModelError, OutputError
from bigdecon.io.provenance import is_unfinished, read_run, write_run
from bigdecon.io.reading import open_volume
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.running import block_size, planning
from bigdecon.running.choosing import choosing_folder
from bigdecon.running.plan_text import describe_plan
from tests.conftest import workers_forked
from tests.runs import NAMED, SHAPE, SIZE, attributes, kernel, snapshot, specimen, voxels, write_image


@pytest.fixture(scope="module")
def psf(tmp_path_factory):
    path = tmp_path_factory.mktemp("psf") / "psf.tif"
    save_psf(psf_from_array(kernel(), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), path)
    return path


@pytest.fixture(scope="module")
def flat_psf(tmp_path_factory):
    path = tmp_path_factory.mktemp("psf") / "psf2d.tif"
    save_psf(psf_from_array(kernel((7, 7)), voxel_size_um=SIZE[1:], psf_voxel_size_um=SIZE[1:]), path)
    return path


@pytest.fixture
def restore(cluster, psf):
    """Run with quick settings on the shared cluster; keyword arguments are those of RunConfig."""

    def call(image, output=None, **changes):
        events = changes.pop("events", None)
        settings = {
            "psf": (str(psf),),
            "method": "richardson-lucy",
            "iterations": 2,
            "sieve": 0.0,
            "background": 0.0,
            "device": "cpu",
            "cluster": cluster,
        }
        config = RunConfig(str(image), output=output and str(output), **(settings | changes))
        return pipeline.run(config, on_event=events.append if events is not None else None)

    return call


def check_output(path):
    """Hold an output to what every one promises."""
    yaozarrs.validate_zarr_store(str(path))
    found = attributes(path)
    provenance = found["bigdecon"]["provenance"]
    assert {"bigdecon", "torch", "zarr"} <= set(provenance["versions"])
    assert all(len(psf["sha256"]) == 64 for psf in provenance["psfs"])
    assert provenance["configuration"]["method"]
    assert provenance["input"]["digest"]
    record = json.loads((path / "bigdecon" / "run.json").read_text())
    assert record["finished"]
    assert record["provenance"] == provenance
    for channel in found.get("ome", found)["omero"]["channels"]:
        assert channel["window"]["start"] < channel["window"]["end"]
    assert not [p for p in path.rglob("*") if p.name.startswith(".") and not p.name.startswith(".z")]


# --- what comes out ------------------------------------------------------------------------------


@pytest.mark.parametrize("version_in", ["0.4", "0.5"])
@pytest.mark.parametrize("version_out", ["0.4", "0.5"])
def test_ome_zarr_in_and_out(tmp_path, restore, version_in, version_out):
    data = specimen()
    image = write_image(tmp_path / "a.ome.zarr", data, translation=(3, 5, 7), ome_version=version_in)
    result = restore(image, ome_version=version_out)
    assert (result.state, result.clipped, result.models) == ("finished", 0, ())
    assert result.output == tmp_path / "a.deconvolved.ome.zarr"
    check_output(result.output)
    restored = open_volume(result.output)
    assert (restored.axes, restored.shape, restored.dtype) == ("zyx", SHAPE, np.float32)
    assert restored.voxel_size_um == pytest.approx(SIZE)
    assert restored.translation_um == pytest.approx((3, 5, 7))
    assert (result.output / ".zgroup").exists() == (version_out == "0.4")
    values = np.asarray(restored)
    assert values.mean() == pytest.approx(data.mean(), rel=0.01)
    assert values.std() > 1.05 * gaussian_filter(data.astype("float32"), 1).std()


@pytest.mark.parametrize("dtype", ["uint8", ">u2", ">i4", "int16", "float32", ">f4"])
def test_a_tiff_of_any_type(tmp_path, restore, dtype):
    data = np.minimum(specimen(), 255).astype(dtype)
    order = ">" if dtype.startswith(">") else "<"
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack", byteorder=order)
    output = restore(tmp_path / "a.tif", voxel_size=SIZE).output
    assert output == tmp_path / "a.deconvolved.ome.zarr"
    native = data.astype(data.dtype.newbyteorder("="))
    other = restore(write_image(tmp_path / "b.ome.zarr", native), tmp_path / "out").output
    np.testing.assert_array_equal(voxels(output), voxels(other))
    assert open_volume(output).voxel_size_um == pytest.approx(SIZE)


def test_a_flat_image(tmp_path, restore, flat_psf):
    image = write_image(tmp_path / "a.ome.zarr", specimen((300, 310)), "yx", SIZE[1:])
    output = restore(image, psf=(str(flat_psf),)).output
    check_output(output)
    assert open_volume(output).axes == "yx"
    assert len(zarr.open_group(output)["1"].shape) == 2


def test_a_flat_image_with_three_voxel_sizes(tmp_path, restore, flat_psf):
    """The command line takes three numbers; z means nothing here."""
    tifffile.imwrite(tmp_path / "a.tif", specimen((40, 50)))
    output = restore(tmp_path / "a.tif", psf=(str(flat_psf),), voxel_size=(1, 0.2, 0.2)).output
    assert open_volume(output).voxel_size_um == pytest.approx((0.2, 0.2))


def test_channels_and_time_points(tmp_path, restore, psf):
    """Each is restored as if it were alone, with the PSF of its channel."""
    save_psf(psf_from_array(kernel(sigma=2), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), tmp_path / "b.tif")
    psfs = (str(psf), str(tmp_path / "b.tif"))
    data = np.stack([[specimen(seed=2 * t + c) for c in range(2)] for t in range(2)])
    image = write_image(tmp_path / "a.ome.zarr", data, "tczyx")
    output = restore(image, psf=psfs).output
    check_output(output)
    result = open_volume(output)
    assert (result.axes, result.shape) == ("tczyx", data.shape)
    assert result.channels == NAMED
    assert [p["name"] for p in attributes(output)["bigdecon"]["provenance"]["psfs"]] == ["psf.tif", "b.tif"]
    for t, c in ((0, 0), (1, 0), (1, 1)):
        alone = write_image(tmp_path / f"alone{t}{c}.ome.zarr", data[t, c])
        wanted = voxels(restore(alone, tmp_path / f"out{t}{c}", psf=psfs[c : c + 1]).output)
        np.testing.assert_array_equal(voxels(output)[t, c], wanted)


def test_one_channel_by_name_and_one_time_point(tmp_path, restore):
    data = np.stack([[specimen(seed=2 * t + c) for c in range(2)] for t in range(2)])
    image = write_image(tmp_path / "a.ome.zarr", data, "tczyx")
    output = restore(image, channel=("actin",), timepoint=1).output
    result = open_volume(output)
    assert (result.axes, result.shape) == ("tczyx", (1, 1, *SHAPE))
    assert result.channels == NAMED[1:]
    alone = write_image(tmp_path / "alone.ome.zarr", data[1, 1])
    np.testing.assert_array_equal(voxels(output)[0, 0], voxels(restore(alone, tmp_path / "out").output))


def test_a_roi_keeps_its_place(tmp_path, restore):
    data = specimen()
    image = write_image(tmp_path / "a.ome.zarr", data, translation=(3, 5, 7))
    output = restore(image, roi="4:20,:30,10:").output
    result = open_volume(output)
    assert result.shape == (16, 30, 34)
    assert result.translation_um == pytest.approx((3 + 4 * 0.3, 5, 7 + 10 * 0.2))
    crop = write_image(tmp_path / "crop.ome.zarr", data[4:20, :30, 10:].copy())
    np.testing.assert_array_equal(voxels(output), voxels(restore(crop, tmp_path / "out").output))


def test_a_coarse_level_keeps_its_size(tmp_path, restore):
    image = write_image(tmp_path / "a.ome.zarr", specimen((8, 260, 40)))
    coarse = open_volume(image, level=1)
    output = restore(image, level=1).output
    result = open_volume(output)
    assert result.shape == coarse.shape
    assert result.voxel_size_um == pytest.approx(coarse.voxel_size_um)
    assert result.translation_um == pytest.approx(coarse.translation_um)
    np.testing.assert_allclose(voxels(output).mean(), np.asarray(coarse).mean(), rtol=0.02)


def test_a_pyramid_of_local_means(tmp_path, restore):
    image = write_image(tmp_path / "a.ome.zarr", specimen((8, 300, 40)))
    output = restore(image).output
    check_output(output)
    fine, coarse = voxels(output), voxels(output, 1)
    factors = [-(-n // m) for n, m in zip(fine.shape, coarse.shape, strict=True)]
    split = [side for n, f in zip(coarse.shape, factors, strict=True) for side in (n, f)]
    np.testing.assert_allclose(coarse, fine.reshape(split).mean(axis=(1, 3, 5)), rtol=1e-5)


def test_a_bead_stays_where_it_is(tmp_path, restore):
    spot = np.zeros(SHAPE, "float32")
    spot[9, 17, 26] = 1000
    image = write_image(tmp_path / "a.ome.zarr", gaussian_filter(spot, 1.5) + 1)
    output = restore(image, iterations=5, background=1.0).output
    values = voxels(output) - 1
    places = np.indices(SHAPE)
    centre = [(values * axis).sum() / values.sum() for axis in places]
    np.testing.assert_allclose(centre, (9, 17, 26), atol=0.05)
    assert values.max() > 1.2 * gaussian_filter(spot, 1.5).max()


def test_integers_are_rounded_and_clipped_and_counted(tmp_path, restore):
    data = np.minimum(specimen(), 255).astype("uint8")
    image = write_image(tmp_path / "a.ome.zarr", data)
    exact = voxels(restore(image, iterations=5).output)
    result = restore(image, tmp_path / "out", iterations=5, dtype="uint8")
    clipped = np.count_nonzero(np.rint(exact) > 255)
    assert clipped > 0
    assert result.clipped == clipped
    np.testing.assert_array_equal(voxels(result.output), np.clip(np.rint(exact), 0, 255).astype("uint8"))


def test_the_background_is_taken_off_on_request(tmp_path, restore):
    image = write_image(tmp_path / "a.ome.zarr", specimen())
    kept = voxels(restore(image, background=90.5).output)
    off = voxels(restore(image, tmp_path / "out", background=90.5, subtract_background=True).output)
    np.testing.assert_allclose(off, kept - 90.5, atol=1e-3)
    measured = restore(image, tmp_path / "out2", background="auto", subtract_background=True)
    assert measured.plan.stats[0].background == pytest.approx(95, abs=5)
    assert voxels(measured.output).mean() == pytest.approx(kept.mean() - 95, abs=6)


def test_smaller_than_everything(tmp_path, restore):
    """An image smaller than block, halo and PSF; the PSF is cropped and the plan says so."""
    image = write_image(tmp_path / "a.ome.zarr", specimen((3, 5, 4)))
    result = restore(image)
    assert result.plan.psfs[0].array.shape == (5, 7, 7)
    assert "cropped" in " ".join(text for _, text in describe_plan(result.plan))
    assert np.isfinite(voxels(result.output)).all()


# --- once and no more ----------------------------------------------------------------------------


def test_a_finished_result_is_recognised(tmp_path, restore):
    image = write_image(tmp_path / "a.ome.zarr", specimen())
    output = restore(image).output
    before = snapshot(output)
    events = []
    again = restore(image, events=events, workers=3, threads=1, tiling=TilingConfig(engine="map-overlap"))
    assert again.state == "found finished"
    # What the plan warns of is told again.
    work = [event for event in events if not isinstance(event, Message)]
    assert (work, snapshot(output)) == ([], before)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"iterations": 3}, "iterations (2 then, 3 now)"),
        ({"dtype": "uint16"}, "dtype (float32 then, uint16 now)"),
        ({"seed": 4}, "seed (0 then, 4 now)"),
        ({"tiling": TilingConfig(block=64)}, "block (default then, 64 now)"),
        ({"roi": "0:9,0:9,0:9"}, "roi (default then, 0:9,0:9,0:9 now)"),
    ],
)
def test_another_run_is_refused_by_name(tmp_path, restore, changes, named):
    image = write_image(tmp_path / "a.ome.zarr", specimen())
    output = restore(image).output
    before = snapshot(output)
    with pytest.raises(OutputError) as refused:
        restore(image, **changes)
    assert named in str(refused.value)
    assert str(output) in str(refused.value)
    assert snapshot(output) == before


def test_another_image_or_psf_is_refused_by_name(tmp_path, restore):
    image = write_image(tmp_path / "a.ome.zarr", specimen())
    output = restore(image).output
    other = write_image(tmp_path / "b.ome.zarr", specimen(seed=1))
    with pytest.raises(OutputError, match="the input image"):
        restore(other, output)
    save_psf(psf_from_array(kernel(sigma=2), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), tmp_path / "b.tif")
    with pytest.raises(OutputError, match="the PSF"):
        restore(image, psf=(str(tmp_path / "b.tif"),))
    assert restore(image).state == "found finished"


def test_overwrite_replaces(tmp_path, restore):
    image = write_image(tmp_path / "a.ome.zarr", specimen())
    first = voxels(restore(image).output)
    result = restore(image, iterations=6, overwrite=True)
    assert result.state == "finished"
    check_output(result.output)
    assert np.abs(voxels(result.output) - first).max() > 1
    assert restore(image, iterations=6).state == "found finished"


def test_overwrite_spares_what_is_not_ours(tmp_path, restore):
    image = write_image(tmp_path / "a.ome.zarr", specimen())
    output = restore(image).output
    (output / "notes.txt").write_text("mine")
    before = snapshot(output)
    with pytest.raises(OutputError, match=r"notes\.txt"):
        restore(image, iterations=3, overwrite=True)
    assert snapshot(output) == before


def test_a_dry_run_writes_nothing(tmp_path, restore):
    image = write_image(tmp_path / "a.ome.zarr", specimen())
    before = snapshot(tmp_path)
    result = restore(image, dry_run=True)
    assert result.state == "planned"
    assert dict(describe_plan(result.plan))["output"].endswith("(new)")
    assert snapshot(tmp_path) == before


# --- with training -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cluster, flat_psf):
    """A flat image with two channels that was restored by training: its configuration, result and events."""
    data = np.stack([specimen((40, 44), seed=c) for c in range(2)])
    image = write_image(tmp_path_factory.mktemp("trained") / "a.ome.zarr", data, "cyx")
    config = RunConfig(str(image), (str(flat_psf),), steps=4, device="cpu", cluster=cluster)
    events = []
    return config, pipeline.run(config, on_event=events.append), events


def test_every_channel_gets_its_own_model(trained):
    config, result, events = trained
    check_output(result.output)
    assert [path.name for path in result.models] == ["channel-0.safetensors", "channel-1.safetensors"]
    first, second = (path.read_bytes() for path in result.models)
    assert first != second
    assert not (result.output / "bigdecon" / "training").exists()
    stages = [event.name for event in events if isinstance(event, StageStarted)]
    assert stages == ["train channel 0", "train channel 1", "deconvolve"]
    assert {event.step for event in events if isinstance(event, TrainingProgress)} >= {4}
    assert [event.done for event in events if isinstance(event, RegionDone)] == [1, 2]
    training = attributes(result.output)["bigdecon"]["provenance"]["training"]
    assert [entry["channels"] for entry in training] == [[0], [1]]
    assert all(entry["curve"][-1]["step"] == config.steps for entry in training)
    assert pipeline.run(config).models == result.models


def test_models_are_used_again(trained, tmp_path):
    """A trained run's models give the same voxels without training, named by result or by file."""
    config, result, _ = trained
    events = []
    again = replace(config, model=str(result.output), output=str(tmp_path / "again"), steps=None)
    reused = pipeline.run(again, on_event=events.append)
    assert not [event for event in events if isinstance(event, TrainingProgress)]
    np.testing.assert_array_equal(voxels(reused.output), voxels(result.output))
    model = str(result.models[1])
    without_psf = replace(again, psf=(), model=model, channel=("actin",), output=str(tmp_path / "b"))
    one = pipeline.run(without_psf)
    np.testing.assert_array_equal(voxels(one.output)[0], voxels(result.output)[1])
    check_output(one.output)


def test_a_model_for_another_psf_is_refused(trained, tmp_path):
    config, result, _ = trained
    wide = psf_from_array(kernel((13, 13), 3), voxel_size_um=SIZE[1:], psf_voxel_size_um=SIZE[1:])
    save_psf(wide, tmp_path / "wide.tif")
    model, output = str(result.models[0]), str(tmp_path / "o")
    used = replace(config, psf=(str(tmp_path / "wide.tif"),), model=model, output=output)
    with pytest.raises(ModelError, match="another PSF"):
        pipeline.run(used)
    with pytest.raises(ModelError, match=r"0\.2 x 0\.2"):
        pipeline.run(replace(used, psf=(), voxel_size=(0.4, 0.4)))
    assert not (tmp_path / "o").exists()


# --- interrupted ---------------------------------------------------------------------------------


def test_a_run_that_ended_before_any_work_continues(tmp_path, restore, monkeypatch):
    image = write_image(tmp_path / "a.ome.zarr", specimen())

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "restore_regions", interrupt)
        with pytest.raises(KeyboardInterrupt):
            restore(image)
    output = tmp_path / "a.deconvolved.ome.zarr"
    assert is_unfinished(output)
    result = restore(image)
    assert (result.plan.state, result.state) == ("continue", "finished")
    check_output(result.output)
    assert not is_unfinished(output)
    assert not is_unfinished(image)


def test_two_at_once_are_refused(tmp_path, restore):
    """A run that another process is writing is left to it."""
    image = write_image(tmp_path / "a.ome.zarr", specimen())
    output = restore(image).output
    record = read_run(output / "bigdecon" / "run.json")
    write_run(output / "bigdecon" / "run.json", replace(record, finished=False))
    before = voxels(output)
    for overwrite in (False, True):
        with Lease(output / "bigdecon"), pytest.raises(OutputError, match="another bigdecon"):
            restore(image, overwrite=overwrite)
    np.testing.assert_array_equal(voxels(output), before)


def test_of_two_that_begin_at_once_the_later_one_is_told(tmp_path, restore, monkeypatch):
    """The output appears between this run's plan and its first file."""
    image = write_image(tmp_path / "a.ome.zarr", specimen())
    create = pipeline.create_ome_zarr

    def too_late(*arguments, **options):
        create(*arguments, **options)
        create(*arguments, **options)

    monkeypatch.setattr(pipeline, "create_ome_zarr", too_late)
    with pytest.raises(OutputError, match="has just been made by another bigdecon"):
        restore(image)
    monkeypatch.undo()
    assert restore(image).state == "finished"


def test_trials_of_the_later_one_go_and_what_a_user_put_beside_them_stays(tmp_path, restore, monkeypatch):
    image = write_image(tmp_path / "a.ome.zarr", specimen((12, 32, 32)))
    prepared, kept = pipeline.prepare, []

    def slower(config, *arguments, **named):
        """Choose settings; meanwhile the same command is quicker elsewhere."""
        plan = prepared(config, *arguments, **named)
        kept.extend(choosing_folder(plan.output).iterdir())
        monkeypatch.setattr(pipeline, "prepare", prepared)
        held = {path: path.read_bytes() for path in kept}
        restore(image, iterations="auto")
        assert not choosing_folder(plan.output).exists()
        choosing_folder(plan.output).mkdir()
        for path, data in held.items():
            path.write_bytes(data)
            path.with_name(f".tmp-{path.name}-{'a' * 32}").write_bytes(data)
        (choosing_folder(plan.output) / "notes.npz").write_text("mine")
        return plan

    monkeypatch.setattr(pipeline, "prepare", slower)
    with pytest.raises(OutputError, match="has just been made by another bigdecon"):
        restore(image, iterations="auto")
    assert kept
    assert [path.name for path in kept[0].parent.iterdir()] == ["notes.npz"]


# --- the same bytes ------------------------------------------------------------------------------


def decoded(config, tmp_path, name, **changes):
    return voxels(pipeline.run(replace(config, output=str(tmp_path / name), **changes)).output)


@pytest.fixture(params=["richardson-lucy", "siamese"])
def several_regions(request, tmp_path, psf):
    """A configuration with several blocks, shards and regions, on clusters of its own."""
    image = write_image(tmp_path / "a.ome.zarr", specimen((16, 40, 200)))
    config = RunConfig(
        str(image),
        (str(psf),),
        method=request.param,
        steps=2,
        iterations=3,
        sieve=0.0,
        background=100.0 if request.param == "richardson-lucy" else "auto",
        device="cpu",
        threads=1,
        workers=1,
        dashboard_address="none",
        ome_version="0.4",
        tiling=TilingConfig(block=64),
    )
    with workers_forked():
        yield config


@pytest.mark.slow
def test_workers_regions_engines_and_repetition_leave_the_bytes_alone(several_regions, tmp_path, monkeypatch):
    config = several_regions
    first = decoded(config, tmp_path, "first")
    np.testing.assert_array_equal(decoded(config, tmp_path, "workers", workers=2), first)
    overlapping = TilingConfig(block=64, engine="map-overlap")
    np.testing.assert_array_equal(decoded(config, tmp_path, "engine", tiling=overlapping), first)
    monkeypatch.setattr(block_size, "REGION_VOXELS", 1)
    plan = planning.prepare(replace(config, output=str(tmp_path / "plan")), "cpu")
    assert len(plan.regions) > 1
    np.testing.assert_array_equal(decoded(config, tmp_path, "regions"), first)


@pytest.mark.slow
def test_the_block_size_changes_rounding_only(several_regions, tmp_path, cluster):
    config = replace(several_regions, cluster=cluster)
    whole = pipeline.run(replace(config, output=str(tmp_path / "whole"), tiling=TilingConfig(block=256)))
    models = {"model": str(whole.output), "steps": None} if whole.models else {}
    expected = voxels(whole.output)
    for block in (64, 96, 128):
        found = decoded(config, tmp_path, f"block{block}", tiling=TilingConfig(block=block), **models)
        assert np.abs(found - expected).max() <= 1e-4 * np.ptp(expected), block
