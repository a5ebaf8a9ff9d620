"""How far a run is: its training, its blocks while they are restored, and what was typed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from bigdecon_cli import main as entry

from bigdecon import pipeline
from bigdecon.config import RunConfig
from bigdecon.distributed import progress
from bigdecon.distributed.progress import BlockProgress, BlocksRestored, ChoosingProgress, RegionDone
from bigdecon.io.provenance import read_run, write_run
from bigdecon.learning.checkpoint import CurvePoint
from bigdecon.learning.training_progress import read_progress
from bigdecon.learning.training_state import TrainingState, save_state
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.running.run_status import run_status
from bigdecon.storage import places
from tests.runs import SIZE, kernel, specimen, write_image

QUICK = {"method": "richardson-lucy", "iterations": 2, "sieve": 0.0, "background": 0.0, "device": "cpu"}
COMMAND = "bigdecon run a.ome.zarr --psf psf.tif"


@pytest.fixture(scope="module")
def psf(tmp_path_factory):
    path = tmp_path_factory.mktemp("psf") / "psf.tif"
    save_psf(psf_from_array(kernel(), voxel_size_um=SIZE, psf_voxel_size_um=SIZE), path)
    return str(path)


@pytest.fixture(scope="module", params=["direct", "map-overlap"])
def finished(request, tmp_path_factory, cluster, psf):
    """A run of one region with many blocks: its result and events."""
    image = write_image(tmp_path_factory.mktemp("run") / "a.ome.zarr", specimen((24, 80, 90)))
    config = RunConfig(str(image), (psf,), cluster=cluster, **QUICK)
    tiling = replace(config.tiling, block=16, engine=request.param)
    events = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "TALLY_SECONDS", 0)
        result = pipeline.run(replace(config, tiling=tiling), on_event=events.append, command=COMMAND)
    return result, events


def test_blocks_are_counted_while_a_region_is_worked_on(finished):
    result, events = finished
    total = len(result.plan.grid)
    assert len(result.plan.regions) == 1
    assert total > 20
    moves = [event for event in events if isinstance(event, BlockProgress)]
    assert moves
    done = [event.done for event in moves]
    assert done == sorted(done)
    assert all(0 < event.done <= event.total == total for event in moves)
    (last,) = [event for event in events if isinstance(event, RegionDone) and event.all_blocks]
    assert (last.blocks, last.all_blocks) == (total, total)
    assert not any(isinstance(event, BlocksRestored) for event in events)


def test_what_was_typed_is_kept(finished):
    status = run_status(finished[0].output)
    assert (status.state, status.command, status.training) == ("finished", COMMAND, ())


@pytest.fixture
def training(finished, tmp_path):
    """The output of a run whose training has been interrupted."""
    output = write_image(tmp_path / "out.ome.zarr", np.ones((8, 8, 8), "uint16"))
    record = read_run(finished[0].output / "bigdecon" / "run.json")
    settings = {**record.provenance["configuration"], "method": "siamese"}
    settings["chosen"] = {**settings["chosen"], "training": {"steps": 450}}
    provenance = {**record.provenance, "configuration": settings}
    write_run(output / "bigdecon" / "run.json", replace(record, finished=False, provenance=provenance))
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(3)).sum().backward()
    optimizer.step()
    curve = (CurvePoint(100, 0.5, None), CurvePoint(150, 0.4, 0.25))
    path = output / "bigdecon" / "training" / "channel-0.safetensors"
    save_state(path, network, optimizer, TrainingState(150, True, 42.0, curve))
    return output, path


def test_status_tells_how_far_a_training_is(training, monkeypatch, capsys):
    output, path = training
    (status,) = run_status(output).training
    assert status == (0, 150, 450, 42.0, 0.25)
    monkeypatch.setattr(sys, "argv", ["bigdecon", "status", str(output)])
    with pytest.raises(SystemExit):
        entry.main()
    text = capsys.readouterr().out
    assert "channel 0: step 150 of 450, after 42 s, held-out error 0.25" in text
    assert f"command     {COMMAND}" in text
    monkeypatch.setattr(sys, "argv", ["bigdecon", "status", str(output), "--json"])
    with pytest.raises(SystemExit):
        entry.main()
    told = json.loads(capsys.readouterr().out)
    assert told["training"] == [
        {"channel": 0, "step": 150, "steps": 450, "seconds": 42.0, "held_out_error": 0.25}
    ]
    path.write_bytes(b"torn")
    assert run_status(output).training == ()


def test_only_the_head_of_a_state_is_read(training, place):
    _, path = training
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little") + 8
    copy = place / "state.safetensors"
    places.write(copy, data[:size])  # without any weights
    assert read_progress(copy) == (150, 42.0, 0.25)
    for torn in (b"", data[:100], b"\xff" * 20, data[:8] + b"{}" + data[10:size]):
        places.write(copy, torn)
        assert read_progress(copy) is None
    assert read_progress(place / "absent") is None


def test_choosing_on_a_cluster_gives_signs_of_life(tmp_path, cluster, psf):
    image = write_image(tmp_path / "a.ome.zarr", specimen((12, 40, 44)))
    from distributed import Client

    events = []
    with Client(cluster):
        config = RunConfig(str(image), (psf,), cluster=cluster, dry_run=True, **(QUICK | {"sieve": "auto"}))
        pipeline.run(config, on_event=events.append)
    told = [event for event in events if isinstance(event, ChoosingProgress)]
    assert told[0].done == 0
    assert told[0].total > 1
    assert told[-1].done == told[-1].total
