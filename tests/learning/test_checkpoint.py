"""Trained networks on disk: back as they were, or refused in one sentence."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bigdecon.config import LossWeights, NetworkConfig, TrainingConfig
from bigdecon.errors import ModelError
from bigdecon.intensity import IntensityStats
from bigdecon.learning.checkpoint import (
    Checkpoint,
    CurvePoint,
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
    with pytest.raises(ModelError, match=r"voxels of 0\.2 x 0\.1 um, but the volume has 0\.2 x 0\.2 um"):
        check_fit(checkpoint(), PSF(psf_array()), (0.2, 0.2))
    with pytest.raises(ModelError, match="for 2D images, but the PSF has 3"):
        check_fit(checkpoint(), PSF(psf_array((3, 3, 3))), None)


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
