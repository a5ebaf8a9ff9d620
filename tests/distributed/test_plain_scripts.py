"""Scripts that start workers without `if __name__ == "__main__":`, as a file and on the standard input."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing import spawn

import numpy as np
import pytest

from bigdecon.distributed.surroundings import script_left_out

# A worker that has to be started again would import the script just as the first one.
SCRIPT = """
import os, signal
from pathlib import Path
from bigdecon.distributed.cluster import connect

with Path("runs.txt").open("a") as file:
    file.write("run\\n")

class Number:
    def __init__(self, value):
        self.value = value

def double(number):
    return Number(2 * number.value), os.getpid()

with connect(workers=1, threads=1, dashboard_address="none", device="cpu") as opened:
    number, first = opened.client.submit(double, Number(4)).result()
    assert isinstance(number, Number)
    opened.client.run(os.getpid)
    os.kill(first, signal.SIGKILL)
    number, second = opened.client.submit(double, number, retries=9, pure=False).result()
    print(number.value, os.getpid() not in (first, second), first != second)
"""
RUN = """
from pathlib import Path
import bigdecon

with Path("runs.txt").open("a") as file:
    file.write("run\\n")
result = bigdecon.run(bigdecon.RunConfig(
    input="image.ome.zarr", psf=("psf.npy",), psf_voxel_size=(0.3, 0.2, 0.2), method="wiener",
    output="out.ome.zarr", threads=1, workers=1, dashboard_address="none", report=False, device="cpu"))
print(result.state)
"""


def execute(folder, script: str, *, on_stdin: bool) -> str:
    """Run a script where warnings are errors; give what it printed, having checked that it ran once."""
    (folder / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-" if on_stdin else "script.py"],
        input=script if on_stdin else "",
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
        env=os.environ | {"TMPDIR": str(folder)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "runs.txt").read_text() == "run\n"
    return done.stdout


@pytest.mark.parametrize("on_stdin", [False, True])
def test_a_plain_script_has_workers_and_new_ones_in_place_of_lost_ones(tmp_path, on_stdin):
    assert execute(tmp_path, SCRIPT, on_stdin=on_stdin) == "16 True True\n"


@pytest.mark.slow
@pytest.mark.parametrize("on_stdin", [False, True])
def test_a_plain_script_restores_an_image(tmp_path, on_stdin):
    from tests.runs import kernel, specimen, write_image

    write_image(tmp_path / "image.ome.zarr", specimen())
    np.save(tmp_path / "psf.npy", kernel())
    assert execute(tmp_path, RUN, on_stdin=on_stdin) == "finished\n"


def test_other_processes_are_told_of_the_script_as_ever():
    before = spawn.get_preparation_data
    with script_left_out(), script_left_out():
        assert spawn.get_preparation_data("Process-1").keys() == before("Process-1").keys()
        assert not [k for k in spawn.get_preparation_data("Dask Worker process (x)") if "main" in k]
    assert spawn.get_preparation_data is before
