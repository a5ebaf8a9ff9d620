"""`bigdecon run -o s3://...`, in processes of its own: the same voxels as on a disk, whatever fails."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest

from bigdecon.deconvolution.lease import Lease
from bigdecon.deconvolution.ledger import Ledger
from bigdecon.io.reading import open_volume
from bigdecon.storage import places, servers
from bigdecon.storage.places import as_place
from tests.cli.test_run_interrupted import (
    ITERATED,
    TRAINED,
    UNIT,
    cluster_elsewhere,
    finish,
    start,
    write_case,
)
from tests.servers import FaultyProxy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def standing(s3_server):
    """A proxy before the object store."""
    with FaultyProxy(s3_server) as proxy:
        yield proxy


@pytest.fixture
def proxy(s3, standing, monkeypatch):
    """The proxy, which does not fail yet; everybody asks it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", standing.url)
    standing.every(1, "none")
    standing.requests.clear()
    return standing


def tell(known: dict[str, str]) -> None:
    """Let a worker know the object store, and not wait long before it asks again."""
    os.environ.update(known)
    servers.FIRST_PAUSE_S = 0.02


@pytest.fixture(scope="module")
def elsewhere(standing):
    """Options of a run that uses a cluster that is there, and knows the object store."""
    known = {
        "AWS_ENDPOINT_URL": standing.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with cluster_elsewhere() as opened:
        opened.client.run(tell, known)
        yield "--cluster", str(opened.client.scheduler.address)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, elsewhere):
    """The case of the tests of deconvolution; "local" is its result on a disk."""
    folder = tmp_path_factory.mktemp("case")
    write_case(folder, (16, 80, 900))
    finish(start(folder, "local", *ITERATED, *elsewhere))
    return folder


def wait_for(process, proxy, output, part: str) -> None:
    """Wait until an object is there whose name has a part; look only when somebody has put it."""
    deadline = time.monotonic() + 200
    while not (
        any(method == "PUT" and part in path for method, path in list(proxy.requests))
        and any(part in str(found) for found in places.files_below(output))
    ):
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


def test_killed_in_training_and_its_model_used_again(tmp_path, s3, proxy, elsewhere):
    write_case(tmp_path, (60, 70))
    finish(start(tmp_path, "local", *TRAINED, *elsewhere))
    output = as_place(f"{s3}/out.ome.zarr")
    process = start(tmp_path, str(output), *TRAINED)
    wait_for(process, proxy, output, "bigdecon/training/channel-0.safetensors")
    process.kill()
    process.communicate()
    assert places.names(output / "bigdecon" / "model") == []
    with Lease(output / "bigdecon"):
        assert "is writing to s3://" in refused(start(tmp_path, str(output), *TRAINED))
    events = finish(start(tmp_path, str(output), *TRAINED, *elsewhere))
    assert next(event["step"] for event in events if event["event"] == "TrainingProgress") > 20
    same(tmp_path / "local", output)
    model = "bigdecon/model/channel-0.safetensors"
    assert places.read(output / model) == (tmp_path / "local" / model).read_bytes()
    assert places.names(output / "bigdecon") == sorted(
        [".zattrs", ".zgroup", "ledger", "model", "psf", "run.json"]
    )
    finish(start(tmp_path, f"{s3}/again.ome.zarr", "--model", str(output), "--block", "64", *elsewhere))
    same(output, f"{s3}/again.ome.zarr")


def test_killed_in_deconvolution_behind_a_server_that_fails(folder, s3, proxy, elsewhere):
    proxy.every(7)
    output = as_place(f"{s3}/out.ome.zarr")
    process = start(folder, str(output), *ITERATED)
    wait_for(process, proxy, output, "bigdecon/ledger/")
    process.kill()
    process.communicate()
    written = Ledger(output / "bigdecon" / "ledger").read()
    assert 1 <= len(written) < 900 // UNIT
    proxy.requests.clear()
    events = finish(start(folder, str(output), *ITERATED, *elsewhere))
    counted = [event["done"] for event in events if event["event"] == "RegionDone"]
    assert counted[0] == len(written)
    put = {path for method, path in proxy.requests if method == "PUT"}
    for key in written:
        assert not any(path.endswith(f"out.ome.zarr/0/0/0/{key.start[-1] // UNIT}") for path in put)
    proxy.every(1, "none")
    same(folder / "local", output, levels=(0, 1))
    events = finish(start(folder, str(output), *ITERATED, *elsewhere))
    assert events[-1]["state"] == "found finished"


def test_an_outage_ends_in_a_sentence_and_loses_nothing(folder, s3, proxy, elsewhere):
    output = as_place(f"{s3}/out.ome.zarr")
    process = start(folder, str(output), *ITERATED)
    wait_for(process, proxy, output, "bigdecon/ledger/")
    proxy.every(1, "503")
    out, err = process.communicate(timeout=550)
    assert process.returncode == 3, (out, err)
    assert err.count("\n") == 1
    assert "the server answered 503" in err
    assert json.loads(out.splitlines()[-1])["exit_code"] == 3
    proxy.every(1, "none")
    finish(start(folder, str(output), *ITERATED, *elsewhere))
    same(folder / "local", output, levels=(0, 1))
    finish(start(folder, str(output), *ITERATED, "--overwrite", *elsewhere))
    same(folder / "local", output, levels=(0, 1))
