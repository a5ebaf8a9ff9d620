"""All checks before a run: on few boxes, within a budget, in the plan, and kept in the result."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from bigdecon.config import RunConfig
from bigdecon.diagnosis.input_checks import check_input
from bigdecon.diagnosis.sampling import BUDGET_BYTES, sample_boxes
from bigdecon.io.writing import write_ome_zarr
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.optics.simulation import NoiseModel, SimulatedSource
from bigdecon.optics.specimens import SPECIMENS
from bigdecon.pipeline import run
from bigdecon.running.planning import prepare
from bigdecon.volume import Stack, Volume
from tests.evaluation.images import VOXEL_UM, Camera, microscope_psf, simulate


@dataclass(frozen=True)
class Watched:
    """A source of any size that makes its voxels up, and notes what was read of it."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype = field(default_factory=lambda: np.dtype("uint16"))
    read: list[tuple[slice, ...]] = field(default_factory=list)

    def __getitem__(self, box):
        self.read.append(box)
        extent = [part.stop - part.start for part in box]
        return np.random.default_rng([part.start for part in box]).poisson(50, extent).astype(self.dtype)

    @property
    def decoded_bytes(self):
        """Bytes of all chunks touched."""
        total = 0
        for box in self.read:
            touched = (-(-p.stop // c) - p.start // c for p, c in zip(box, self.chunks, strict=True))
            total += math.prod(touched) * math.prod(self.chunks) * self.dtype.itemsize
        return total


def psf_of(array):
    size = VOXEL_UM[-array.ndim :]
    return psf_from_array(array, voxel_size_um=size, psf_voxel_size_um=size)


# --- sampling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((10**4,) * 3, (128,) * 3),
        ((10**4,) * 3, (32,) * 3),
        ((10**4,) * 3, (100, 100, 100)),
        ((2000, 2048, 2048), (1, 2048, 2048)),
        ((2000, 2048, 2048), (1, 8, 2048)),
        ((10**6, 10**6), (1024, 1024)),
        ((70, 10**5, 10**5), (64, 64, 64)),
        ((40, 100, 100), (40, 100, 100)),
    ],
)
def test_a_sample_keeps_to_its_budget_whatever_the_volume(shape, chunks):
    source = Watched(shape, chunks)
    boxes = sample_boxes([Stack(source, "zyx"[-len(shape) :])], 40.0, keep=3)
    assert 1 <= len(boxes) <= 3
    assert source.decoded_bytes <= BUDGET_BYTES
    assert len({box.shape for box in boxes}) == 1
    assert min(boxes[0].shape[-2:]) >= 64


def test_chunks_beyond_the_budget_are_left_alone():
    source = Watched((4096,) * 3, (1024,) * 3)
    assert sample_boxes([Stack(source, "zyx")], 0.0, keep=3) == []
    assert source.read == []


def test_an_image_that_is_not_checked_says_so():
    psf = psf_of(microscope_psf(3)[(slice(10, 15),) * 3])
    source = Watched((512,) * 3, (512,) * 3)
    (said,) = (f for f in check_input([Stack(source, "zyx")], psf, background=0.0) if f.needs_attention)
    assert (said.name, source.read) == ("image-not-checked", [])
    assert "a single chunk of it takes 256 MiB once decoded, and 32 MiB are spent" in said.sentence
    names = {f.name for f in check_input([Stack(Watched((512,) * 3, (64,) * 3), "zyx")], psf, background=0.0)}
    assert "image-not-checked" not in names


def test_boxes_with_light_come_first_and_empty_ones_not_at_all():
    image = np.zeros((64, 256, 512), np.float32)
    image[:, :, 300:] = np.random.default_rng(0).random((64, 256, 212))
    boxes = sample_boxes([Volume.from_array(image).stack()], 0.0, keep=3)
    means = [float(box.mean()) for box in boxes]
    assert means == sorted(means, reverse=True)
    assert min(means) > 0
    assert sample_boxes([Volume.from_array(0 * image).stack()], 0.0, keep=3) == []


# --- all checks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("specimen", ["filaments", "nuclei", "points"])
def test_a_good_image_and_its_psf_pass(ndim, specimen):
    got = simulate(specimen, ndim, 0)
    stack = Volume.from_array(got.image).stack()
    found = check_input(
        [stack], psf_of(got.psf), background=100.0, background_given=True, voxel_size_um=VOXEL_UM[-ndim:]
    )
    assert {f.name for f in found} > {"psf-width", "correlated-noise", "wrong-background", "undersampling"}
    assert {f.severity for f in found} == {"good"}


def test_the_noise_free_image_is_no_alarm():
    got = simulate("nuclei", 3, 0)
    stack = Volume.from_array(np.rint(got.expected).astype("uint16")).stack()
    found = check_input([stack], psf_of(got.psf), background=100.0, voxel_size_um=VOXEL_UM)
    assert not [f for f in found if f.needs_attention]


def test_the_sentence_names_the_channel():
    got = simulate("nuclei", 2, 0)
    stack = Volume.from_array(got.image.clip(0, 200)).stack()
    found = check_input([stack], psf_of(got.psf), background=100.0, name="actin")
    saturated = next(f for f in found if f.name == "saturated-voxels")
    assert saturated.sentence.startswith("Channel actin: ")


@pytest.mark.parametrize("shape", [(8, 8), (1, 40, 40), (3, 20, 20), (2, 2, 2), (5, 17, 300)])
def test_images_of_any_size_are_looked_at_without_failing(shape):
    image = np.random.default_rng(0).poisson(50, shape).astype("uint16")
    psf = psf_of(microscope_psf(len(shape))[(slice(10, 15),) * len(shape)])
    found = check_input([Volume.from_array(image).stack()], psf, background=0.0, background_given=True)
    assert found


@pytest.mark.slow
@pytest.mark.parametrize("specimen", sorted(SPECIMENS))
@pytest.mark.parametrize("seed", range(3))
def test_few_false_alarms_in_parts_of_large_volumes(specimen, seed):
    camera = NoiseModel(poisson=0.004, gaussian=0.01, bits=12)
    source = SimulatedSource(
        SPECIMENS[specimen], "noisy", (128, 256, 256), seed, microscope_psf(3), camera, 4096, 0
    )
    found = check_input(
        [Stack(source, "zyx")], psf_of(microscope_psf(3)), background=0.0, voxel_size_um=VOXEL_UM
    )
    assert [f.name for f in found if f.needs_attention] == []


# --- in a run -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """An image that is saturated, with a PSF whose y and x were swapped with z."""
    folder = tmp_path_factory.mktemp("findings")
    got = simulate("nuclei", 3, 0, Camera())
    part = got.image[:24, :40, :44].clip(0, 300)
    write_ome_zarr(Volume.from_array(part, voxel_size_um=(0.1,) * 3), folder / "a.ome.zarr", dtype="uint16")
    psf = microscope_psf(3, (0.1, 0.1, 0.1)).transpose(2, 1, 0)[6:19, 6:19, 6:19]
    save_psf(psf_from_array(psf, voxel_size_um=(0.1,) * 3, psf_voxel_size_um=(0.1,) * 3), folder / "psf.tif")
    return RunConfig(
        str(folder / "a.ome.zarr"),
        (str(folder / "psf.tif"),),
        method="richardson-lucy",
        iterations=2,
        sieve=0.0,
        background=100.0,
        device="cpu",
    )


def test_the_plan_warns_once_of_each_and_refuses_nothing(config):
    plan = prepare(config, "cpu")
    found = {f.name: f for f in plan.findings}
    assert found["psf-orientation"].severity == "warning"
    assert found["saturated-voxels"].severity == "warning"
    assert len(found) == len(plan.findings)
    for finding in found.values():
        said = [w for w in plan.warnings if finding.sentence in w]
        assert len(said) == finding.needs_attention
        assert all(finding.remedy in w for w in said)
    assert prepare(replace(config, background=100), "cpu").findings == plan.findings


@pytest.mark.slow
def test_findings_are_kept_in_the_result_and_a_rerun_goes_on(config, cluster):
    asked = replace(config, cluster=cluster)
    result = run(asked)
    record = json.loads((result.output / "bigdecon" / "run.json").read_text())
    kept = record["provenance"]["findings"]
    assert kept == [f.as_json() for f in result.plan.findings]
    assert {"name", "severity", "sentence", "remedy"} == set(kept[0])
    assert run(asked).state == "found finished"
