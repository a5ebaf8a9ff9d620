"""Results to report on: small runs on the cluster that a module shares."""

from __future__ import annotations

import pytest

from bigdecon import pipeline
from bigdecon.config import RunConfig
from bigdecon.optics.psf import psf_from_array, save_psf
from tests.runs import SIZE, kernel


def write_psf(path, shape=(9, 7, 7), size=SIZE):
    save_psf(psf_from_array(kernel(shape), voxel_size_um=size, psf_voxel_size_um=size), path)
    return path


@pytest.fixture(scope="module")
def psf(tmp_path_factory):
    return write_psf(tmp_path_factory.mktemp("psf") / "psf.tif")


@pytest.fixture(scope="module")
def restore(cluster, psf):
    """Run with quick settings on the shared cluster; keyword arguments are those of RunConfig."""

    def call(image, output=None, **changes):
        events = changes.pop("events", [])
        settings = {
            "psf": (str(psf),),
            "method": "richardson-lucy",
            "iterations": 5,
            "sieve": 0.5,
            "background": 100.0,
            "device": "cpu",
            "cluster": cluster,
            "report": True,
        }
        config = RunConfig(str(image), output=output and str(output), **(settings | changes))
        return pipeline.run(config, on_event=events.append)

    return call
