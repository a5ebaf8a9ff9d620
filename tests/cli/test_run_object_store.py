"""`bigdecon run -o s3://...`, in processes of its own: the same voxels as on a disk, whatever fails."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from bigdecon.deconvolution.lease import Lease
from bigdecon.deconvolution.ledger import Ledger
from bigdecon.io.reading import open_volume
from bigdecon.storage import places
from bigdecon.storage.places import as_place
from tests.cli.test_run_interrupted import (
    ITERATED,
    TRAINED,
    UNIT,
    elsewhere,  # noqa: F401  (a fixture)
    finish,
    start,
    write_case,
)
from tests.servers import FaultyProxy

pytestmark = pytest.mark.slow


@pytest.fixture
def proxy(s3, s3_server, monkeypatch):
    """Stand before the object store; everybody asks the proxy."""
    with FaultyProxy(s3_server) as standing:
        monkeypatch.setenv("AWS_ENDPOINT_URL", standing.url)
        yield standing


def wait_for(process, folder, part: str) -> None:
    """Wait until an object appears whose name has a part."""
    deadline = time.monotonic() + 200
    while not any(part in str(found) for found in places.files_below(folder)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def same(one, other, levels=(0,)) -> None:
    for level in levels:
        mine, theirs = (np.asarray(open_volume(path, level=level)) for path in (one, other))
        np.testing.assert_array_equal(mine, theirs)


def refused(process) -> str:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 2, (out, err)
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    return err


def test_killed_in_training_and_its_model_used_again(tmp_path, s3, elsewhere):  # noqa: F811
    write_case(tmp_path, (60, 70))
    finish(start(tmp_path, "local", *TRAINED, *elsewhere))
    output = as_place(f"{s3}/out.ome.zarr")
    process = start(tmp_path, str(output), *TRAINED)
    wait_for(process, output, "bigdecon/training/channel-0.safetensors")
    process.kill()
    process.communicate()
    assert places.names(output / "bigdecon" / "model") == []
    with Lease(output / "bigdecon"):
        assert "is writing to s3://" in refused(start(tmp_path, str(output), *TRAINED))
    events = finish(start(tmp_path, str(output), *TRAINED))
    assert next(event["step"] for event in events if event["event"] == "TrainingProgress") > 20
    same(tmp_path / "local", output)
    model = "bigdecon/model/channel-0.safetensors"
    assert places.read(output / model) == (tmp_path / "local" / model).read_bytes()
    assert places.names(output / "bigdecon") == sorted(
        [".zattrs", ".zgroup", "ledger", "model", "psf", "run.json"]
    )
    finish(start(tmp_path, f"{s3}/again.ome.zarr", "--model", str(output), "--block", "64"))
    same(output, f"{s3}/again.ome.zarr")


def test_killed_in_deconvolution_behind_a_server_that_fails(tmp_path, s3, proxy, elsewhere):  # noqa: F811
    write_case(tmp_path, (16, 80, 900))
    finish(start(tmp_path, "local", *ITERATED, *elsewhere))
    proxy.every(7)
    output = as_place(f"{s3}/out.ome.zarr")
    process = start(tmp_path, str(output), *ITERATED)
    wait_for(process, output, "bigdecon/ledger/")
    process.kill()
    process.communicate()
    written = Ledger(output / "bigdecon" / "ledger").read()
    assert 1 <= len(written) < 900 // UNIT
    proxy.requests.clear()
    events = finish(start(tmp_path, str(output), *ITERATED))
    counted = [event["done"] for event in events if event["event"] == "RegionDone"]
    assert counted[0] == len(written)
    put = {path for method, path in proxy.requests if method == "PUT"}
    for key in written:
        assert not any(path.endswith(f"out.ome.zarr/0/0/0/{key.start[-1] // UNIT}") for path in put)
    proxy.every(1, "none")
    same(tmp_path / "local", output, levels=(0, 1))
    events = finish(start(tmp_path, str(output), *ITERATED))
    assert events[-1]["state"] == "found finished"


def test_an_outage_ends_in_a_sentence_and_loses_nothing(tmp_path, s3, proxy):
    write_case(tmp_path, (16, 80, 900))
    output = as_place(f"{s3}/out.ome.zarr")
    process = start(tmp_path, str(output), *ITERATED)
    wait_for(process, output, "bigdecon/ledger/")
    proxy.every(1, "503")
    out, err = process.communicate(timeout=550)
    assert process.returncode == 3, (out, err)
    assert err.count("\n") == 1
    assert "the server answered 503" in err
    assert json.loads(out.splitlines()[-1])["exit_code"] == 3
    proxy.every(1, "none")
    finish(start(tmp_path, str(output), *ITERATED))
    disturbed = [np.asarray(open_volume(output, level=level)) for level in (0, 1)]
    finish(start(tmp_path, str(output), *ITERATED, "--overwrite"))
    for level, voxels in enumerate(disturbed):
        np.testing.assert_array_equal(np.asarray(open_volume(output, level=level)), voxels)
