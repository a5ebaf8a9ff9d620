"""Trained networks on disk: back as they were, or refused in one sentence."""

from __future__ import annotations

import json
import os
import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save

from bigdecon.config import LossWeights, NetworkConfig, TrainingConfig
from bigdecon.errors import ModelError
from bigdecon.intensity import IntensityStats
from bigdecon.learning.checkpoint import (
    Checkpoint,
    CurvePoint,
    _psf_difference,
    check_fit,
    load_checkpoint,
    save_checkpoint,
    write_atomically,
)
from bigdecon.learning.ssi_network import SSIUNet
from bigdecon.learning.unet import UNet
from bigdecon.optics.psf import PSF
from bigdecon.ssi_config import SSIConfig, SSINetworkConfig


def psf_array(shape: tuple[int, ...] = (5, 5), sigma: float = 1.0) -> NDArray[np.float32]:
    grid = np.ogrid[tuple(slice(-(n // 2), n // 2 + 1) for n in shape)]
    psf = np.exp(-sum((axis / sigma) ** 2 for axis in grid) / 2)
    return (psf / psf.sum()).astype(np.float32)


def checkpoint(voxel_size_um: tuple[float, ...] | None = (0.2, 0.1), **changes: Any) -> Checkpoint:
    torch.manual_seed(0)
    network = NetworkConfig(2, 2, 2, "concatenate")
    psf = psf_array()
    made = Checkpoint(
        weights={name: t.numpy().copy() for name, t in UNet(network).state_dict().items()},
        config=TrainingConfig(
            network=network, loss=LossWeights(rec=1, inv_d=0.5), patch_shape=(16, 24), minutes=2.5
        ),
        stats=IntensityStats(10.5, 2.25, 0, 99, 4, 0.5),
        psf=psf,
        psf_sha256=PSF(psf).sha256,
        voxel_size_um=voxel_size_um,
        curve=(CurvePoint(10, 0.5, None), CurvePoint(20, 0.25, 0.125)),
        seconds=12.5,
        stopped_by="plateau",
    )
    return replace(made, **changes)


def ssi_checkpoint(**changes: Any) -> Checkpoint:
    config = SSIConfig(network=SSINetworkConfig(2, 2, 3), patch_shape=(32, 48), minutes=2.5, seed=3)
    network = SSIUNet(config.network)
    weights = {name: t.numpy().copy() for name, t in network.state_dict().items()}
    return checkpoint(weights=weights, config=config, **changes)


def same(first: Checkpoint, second: Checkpoint) -> bool:
    arrays = [*zip(first.weights.values(), second.weights.values(), strict=True), (first.psf, second.psf)]
    empty = np.zeros(0, np.float32)
    return (
        list(first.weights) == list(second.weights)
        and all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in arrays)
        and repr(replace(first, weights={}, psf=empty)) == repr(replace(second, weights={}, psf=empty))
    )


@pytest.mark.parametrize("voxel_size_um", [(0.2, 0.1), None])
@pytest.mark.parametrize("suffix", [".safetensors", ".json", ""])
def test_what_is_saved_comes_back(
    tmp_path: Path, voxel_size_um: tuple[float, ...] | None, suffix: str
) -> None:
    saved = checkpoint(voxel_size_um)
    path = save_checkpoint(saved, tmp_path / "new" / f"model{suffix}")
    assert path == tmp_path / "new" / "model.safetensors"
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.json", "model.safetensors"]
    loaded = load_checkpoint(path.with_suffix(suffix))
    assert {**saved.weights}.keys() == loaded.weights.keys()
    ordered = replace(loaded, weights={name: loaded.weights[name] for name in saved.weights})
    assert same(saved, ordered)
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(saved.network()(x), loaded.network()(x))
    assert not loaded.network().training


def test_a_network_of_ssi_comes_back(tmp_path: Path) -> None:
    saved = ssi_checkpoint()
    path = save_checkpoint(saved, tmp_path / "model")
    described = json.loads(path.with_suffix(".json").read_text())
    assert (described["format_version"], described["method"]) == (2, "ssi")
    loaded = load_checkpoint(path)
    assert loaded.config == saved.config
    assert (loaded.method, loaded.sha256) == ("ssi", saved.sha256)
    x = torch.randn(1, 1, 8, 8)
    assert isinstance(loaded.network(), SSIUNet)
    assert torch.equal(saved.network()(x), loaded.network()(x))
    assert same(saved, pickle.loads(pickle.dumps(saved)))


def test_a_model_of_version_1_is_a_siamese_one(tmp_path: Path) -> None:
    saved = checkpoint(training_precision="bfloat16")
    path = save_checkpoint(saved, tmp_path / "model")
    described = json.loads(path.with_suffix(".json").read_text())
    assert (described["format_version"], described.pop("method")) == (2, "siamese")
    path.with_suffix(".json").write_text(json.dumps(described | {"format_version": 1}))
    loaded = load_checkpoint(path)
    ordered = replace(loaded, weights={name: loaded.weights[name] for name in saved.weights})
    assert same(saved, ordered)
    assert loaded.method == "siamese"


@pytest.mark.parametrize("method", ["other", ...])
def test_an_unknown_method_is_refused(tmp_path: Path, method: Any) -> None:
    path = save_checkpoint(checkpoint(), tmp_path / "model")
    described = json.loads(path.with_suffix(".json").read_text()) | {"method": method}
    if method is ...:
        del described["method"]
    path.with_suffix(".json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match=r"incomplete: .*(other.*is unknown|method)"):
        load_checkpoint(path)


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path = save_checkpoint(ssi_checkpoint(), tmp_path / "model")
    described = json.loads(path.with_suffix(".json").read_text())
    described["config"]["mask_density"] = 2
    path.with_suffix(".json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match="incomplete: mask_density is 2"):
        load_checkpoint(path)


@pytest.mark.parametrize("shape", [(4, 5), (5, 2049), (0, 5)])
def test_a_psf_of_a_shape_that_cannot_be_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save_checkpoint(checkpoint(psf=np.ones(shape, np.float32)), tmp_path / "model")
    with pytest.raises(ModelError, match=r"incomplete: its PSF has the shape .* odd and at most 2047"):
        load_checkpoint(path)


def test_psfs_are_compared_within_the_box_that_they_share() -> None:
    shapes = [(5, 9), (9, 5), (7, 7), (1, 11)]
    for first in shapes:
        for second in shapes:
            a, b = psf_array(first, 1.5), psf_array(second, 1.0)
            whole = np.zeros((2, 11, 11))
            for canvas, psf in zip(whole, (a, b), strict=True):
                room = [(11 - n) // 2 for n in psf.shape]
                canvas[tuple(slice(r, 11 - r) for r in room)] = psf
            assert _psf_difference(a, b) == pytest.approx(np.abs(whole[0] - whole[1]).sum() / 2, abs=1e-6)


def test_a_needle_and_a_plate_take_no_memory() -> None:
    needle = np.zeros((2047, 1, 1), np.float32)
    needle[1023] = 1
    plate = np.full((1, 501, 501), 501**-2, np.float32)
    tracemalloc.start()
    assert _psf_difference(needle, plate) == pytest.approx(1, abs=1e-4)
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


def test_every_method_has_its_units() -> None:
    stats = IntensityStats(mean=100, std=20, minimum=50, maximum=250, background=60)
    values = np.array([50, 100, 250], np.float32)
    np.testing.assert_allclose(checkpoint().scaling(stats).apply(values), [-2.5, 0, 7.5])
    np.testing.assert_allclose(ssi_checkpoint().scaling(stats).apply(values), [0, 0.25, 1])
    assert ssi_checkpoint().scaling() == IntensityStats(10.5, 2.25, 0, 99, 4, 0.5).unit_range


def test_a_checkpoint_travels_between_processes() -> None:
    saved = checkpoint()
    assert same(saved, pickle.loads(pickle.dumps(saved)))


def test_saving_again_replaces(tmp_path: Path) -> None:
    save_checkpoint(checkpoint(), tmp_path / "model")
    save_checkpoint(checkpoint(seconds=99.0), tmp_path / "model")
    assert load_checkpoint(tmp_path / "model").seconds == 99
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("missing", [".json", ".safetensors"])
def test_a_missing_neighbour_is_named(tmp_path: Path, missing: str) -> None:
    path = save_checkpoint(checkpoint(), tmp_path / "model")
    path.with_suffix(missing).unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read .*with its \.json beside it"):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 5, 100, 2000])
def test_cut_weights_are_refused(tmp_path: Path, keep: int) -> None:
    path = save_checkpoint(checkpoint(), tmp_path / "model")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match="cannot be read"):
        load_checkpoint(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "\x80", '{"format": "bigdecon-model"'])
def test_a_damaged_description_is_refused(tmp_path: Path, text: str) -> None:
    path = save_checkpoint(checkpoint(), tmp_path / "model")
    path.with_suffix(".json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config", None),
        ("config", {"network": {}}),
        ("stats", {"mean": 1}),
        ("stats", 5),
        ("curve", [{"step": 1}]),
        ("voxel_size_um", 3),
        ("psf_sha256", ...),
        ("seconds", ...),
    ],
)
def test_an_incomplete_description_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    path = save_checkpoint(checkpoint(), tmp_path / "model")
    described = json.loads(path.with_suffix(".json").read_text())
    described[key] = value
    if value is ...:
        del described[key]
    path.with_suffix(".json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match="incomplete"):
        load_checkpoint(path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = save_checkpoint(checkpoint(), tmp_path / "model")
    described = json.loads(path.with_suffix(".json").read_text())
    described["config"]["network"]["channels"] = 4
    path.with_suffix(".json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match="incomplete"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("key", "value"), [("format_version", 3), ("format", "other"), ("format_version", None)]
)
def test_another_format_is_refused_and_named(tmp_path: Path, key: str, value: Any) -> None:
    path = save_checkpoint(checkpoint(), tmp_path / "model")
    described = json.loads(path.with_suffix(".json").read_text()) | {key: value}
    path.with_suffix(".json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match=rf"{value!r}.*reads bigdecon-model, versions 1 to 2"):
        load_checkpoint(path)


@pytest.mark.parametrize("voxel_size_um", [(0.2, 0.1), (0.2015, 0.0995), None])
def test_the_psf_and_voxels_it_was_trained_for_fit(voxel_size_um: tuple[float, ...] | None) -> None:
    check_fit(checkpoint(), PSF(psf_array()), voxel_size_um)
    check_fit(checkpoint(None), PSF(psf_array()), voxel_size_um)


def test_a_psf_with_more_room_around_it_fits() -> None:
    check_fit(checkpoint(), PSF(np.pad(psf_array(), 3)), None)
    check_fit(checkpoint(), PSF(psf_array(sigma=1.02)), None)


@pytest.mark.parametrize(
    "other", [psf_array(sigma=2.0), np.roll(psf_array((7, 7)), 1, 0)], ids=["wide", "moved"]
)
def test_another_psf_is_refused_with_the_difference(other: NDArray[np.float32]) -> None:
    with pytest.raises(ModelError, match=r"differ by \d+% of their energy, 5% is allowed"):
        check_fit(checkpoint(), PSF(other), None)


def test_other_voxels_or_dimensions_are_refused() -> None:
    with pytest.raises(ModelError, match=r"voxels of 0\.2 x 0\.1 µm, but the volume has 0\.2 x 0\.2 µm"):
        check_fit(checkpoint(), PSF(psf_array()), (0.2, 0.2))
    with pytest.raises(ModelError, match="for 2D images, but the PSF has 3"):
        check_fit(checkpoint(), PSF(psf_array((3, 3, 3))), None)


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def described(path: Path) -> Any:
    return json.loads(path.with_suffix(".json").read_text())


HOSTILE = {
    "a million channels": ({"config": {"network": {"channels": 10**6}}}, "1000000 channels"),
    "channels without end": ({"config": {"network": {"channels": 10**30}}}, "channels is"),
    "levels without end": ({"config": {"network": {"depth": 10**9}}}, "levels"),
    "levels are true": ({"config": {"network": {"depth": True}}}, "depth is True"),
    "dimensions": ({"config": {"network": {"ndim": 7}}}, "7 dimensions"),
    "skip": ({"config": {"network": {"skip": "eval"}}}, "skip is 'eval'"),
    "a setting that is none": ({"config": {"__class__": "os.system"}}, "no setting '__class__'"),
    "steps are a text": ({"config": {"steps": "10"}}, "steps is '10'"),
    "patch of texts": ({"config": {"patch_shape": ["64", 64]}}, "patch_shape is '64'"),
    "rate is NaN": ({"config": {"learning_rate": float("nan")}}, "learning_rate is nan"),
    "loss weight is a list": ({"config": {"loss": {"rec": [1]}}}, r"rec is \[1\]"),
    "brightness is NaN": ({"stats": {"mean": float("nan")}}, "mean is nan"),
    "no spread": ({"stats": {"std": 0}}, "brightness"),
    "curve is an object": ({"curve": {"step": 1}}, "curve is"),
    "curve of texts": ({"curve": [{"step": "1", "loss": 1, "held_out_error": None}]}, "step is '1'"),
    "voxel size of texts": ({"voxel_size_um": ["a", "b"]}, "voxel_size_um is 'a'"),
    "seconds infinite": ({"seconds": float("inf")}, "seconds is inf"),
    "precision is a number": ({"precision": 3}, "precision is 3"),
    "settings are a list": ({"config": [1]}, "settings are"),
    "version is true": ({"format_version": "2"}, "version '2'"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_description_is_refused_without_memory(tmp_path: Path, case: str) -> None:
    changes, message = HOSTILE[case]
    path = save_checkpoint(checkpoint(), tmp_path / "model")
    content = described(path)
    for key, value in changes.items():
        merge(content, key, value)
    path.with_suffix(".json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=message) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def merge(content: Any, key: str, value: Any) -> None:
    if isinstance(value, dict) and isinstance(content.get(key), dict):
        for inner, item in value.items():
            merge(content[key], inner, item)
    else:
        content[key] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    made = checkpoint()
    made.weights["leave.bias"][0] = value
    with pytest.raises(ModelError, match=r"leave\.bias hold NaN or infinity"):
        load_checkpoint(save_checkpoint(made, tmp_path / "model"))


@pytest.mark.parametrize("psf", [np.zeros(5, "f4"), np.full((3, 3), np.nan, "f4"), np.zeros((3, 3), "i4")])
def test_a_psf_that_is_no_image_is_refused(tmp_path: Path, psf: NDArray[Any]) -> None:
    path = save_checkpoint(checkpoint(), tmp_path / "model")
    tensors = load(path.read_bytes())
    path.write_bytes(save(tensors | {"psf": torch.from_numpy(psf)}))
    with pytest.raises(ModelError, match="its PSF is no image"):
        load_checkpoint(path)


@pytest.mark.parametrize("length", [0, 7, 2**20, 2**40, 2**63, 2**64 - 1])
def test_a_heading_that_lies_about_its_length_is_refused(tmp_path: Path, length: int) -> None:
    path = save_checkpoint(checkpoint(), tmp_path / "model")
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(ModelError, match="cannot be read"):
        load_checkpoint(path)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.timeout(30)
def test_a_pipe_in_place_of_a_model_is_refused(tmp_path: Path, suffix: str) -> None:
    path = save_checkpoint(checkpoint(), tmp_path / "model").with_suffix(suffix)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ModelError, match="no regular file"):
        load_checkpoint(path)


def test_a_pickle_in_place_of_weights_is_never_unpickled(tmp_path: Path) -> None:
    path = save_checkpoint(checkpoint(), tmp_path / "model")
    path.write_bytes(pickle.dumps(Trap(str(tmp_path / "sprung"))))
    with pytest.raises(ModelError, match="cannot be read"):
        load_checkpoint(path)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "sprung").exists()


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)
