"""How long the command takes to answer, and a run to begin: processor time.

    python benchmarks/start.py [REPEATS]     writes results/start.json

Help, version, info, shell completion, and `bigdecon run` up to its first step of training.
Each command runs in a process of its own, by turns with the others; the median counts. The same for
`python -c pass` and `python -c "import numpy"`, to which the ratios are. A run counts with all its processes.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import machine
import numpy as np
import psutil

from bigdecon.io.writing import write_ome_zarr
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.volume import Volume

RESULT = Path(__file__).parent / "results" / "start.json"
BIGDECON = (sys.executable, "-m", "bigdecon_cli")
COMPLETED = {
    "COMP_WORDS": "bigdecon run --method w",
    "COMP_CWORD": "3",
    "_BIGDECON_COMPLETE": "bash_complete",
}
ENTRY = "import sys; sys.argv = ['bigdecon']; from bigdecon_cli.main import main; main()"
WANTED_SECONDS = 0.3
"""What help, version and completion may take."""
TO_FIRST_STEP = "bigdecon run, to the first training step"
LIMITS = {"bigdecon info": 1.5, TO_FIRST_STEP: 10.0}
"""What others may take, in seconds."""
RUN_REPEATS = 3


def cases(folder: Path) -> dict[str, tuple[tuple[str, ...], dict[str, str]]]:
    """Give the commands, and what their environment has besides."""
    write_ome_zarr(Volume.from_array(np.ones((8, 64, 64), "uint16")), folder / "a.ome.zarr")
    image = str(folder / "a.ome.zarr")
    return {
        "python -c pass": ((sys.executable, "-c", "pass"), {}),
        "import numpy": ((sys.executable, "-c", "import numpy"), {}),
        "bigdecon --help": ((*BIGDECON, "--help"), {}),
        "bigdecon run --help": ((*BIGDECON, "run", "--help"), {}),
        "bigdecon --version": ((*BIGDECON, "--version"), {}),
        "bigdecon completion bash": ((*BIGDECON, "completion", "bash"), {}),
        "completing a word": ((sys.executable, "-c", ENTRY), COMPLETED),
        "bigdecon info": ((*BIGDECON, "info", image), {}),
    }


def processor_seconds(command: tuple[str, ...], environment: dict[str, str]) -> float:
    """Run a command; give the processor time of it and of what it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=os.environ | environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_step_seconds(folder: Path) -> float:
    """Begin a run on a small volume; give the time of all its processes until it has trained a step."""
    data = np.random.default_rng(0).poisson(100, (64, 64, 64)).astype("uint16")
    write_ome_zarr(Volume.from_array(data, voxel_size_um=(0.2, 0.1, 0.1)), folder / "small.ome.zarr")
    side = np.arange(-8, 9) / 2.0
    kernel = np.exp(-(side[:, None, None] ** 2 + side[:, None] ** 2 + side**2) / 2)
    size = (0.2, 0.1, 0.1)
    save_psf(psf_from_array(kernel, voxel_size_um=size, psf_voxel_size_um=size), folder / "psf.tif")
    words = ("run", "small.ome.zarr", "--psf", "psf.tif", "--steps", "50", "--device", "cpu", "--json")
    with subprocess.Popen(
        (*BIGDECON, *words, "--no-report"), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["event"] == "TrainingProgress":
                break
        else:
            raise SystemExit("the run ended without training")
        whole = psutil.Process(process.pid)
        spent = [one.cpu_times() for one in (whole, *whole.children(recursive=True))]
        process.terminate()
        process.communicate()
    return sum(times.user + times.system for times in spent)


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    with tempfile.TemporaryDirectory() as folder:
        commands = cases(Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repeats + 1):
            for name, (command, environment) in commands.items():
                seconds[name].append(processor_seconds(command, environment))
    # The first fills caches.
    median = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    runs = []
    for _ in range(RUN_REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(first_step_seconds(Path(folder)))
    median[TO_FIRST_STEP] = statistics.median(runs)
    plain, numpy = median["python -c pass"], median["import numpy"]
    rows = {
        name: {
            "processor_seconds": round(value, 3),
            "of_python": round(value / plain, 2),
            "of_numpy": round(value / numpy, 2),
        }
        for name, value in median.items()
    }
    quick = all(value <= LIMITS.get(name, WANTED_SECONDS) for name, value in median.items())
    RESULT.write_text(
        json.dumps(machine.describe() | {"repeats": repeats, "quick": quick, "cases": rows}, indent=1) + "\n"
    )
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
