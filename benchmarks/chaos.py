"""Chaos: kill what can be killed while `bigdecon run` works, and compare the bytes with an undisturbed run.

    python benchmarks/chaos.py [NAME ...]     all scenarios, or some; writes results/chaos.json

Each scenario disturbs a real run of the real command with real processes, gives the same command again
until it ends well, and holds three things: the decoded voxels of every level are those of the undisturbed
run, `verify` finds the result sound, and no more blocks were computed twice than were in flight.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import zarr
from distributed import Client
from scipy.ndimage import gaussian_filter

from bigdecon.deconvolution.ledger import Ledger
from bigdecon.io.layout import plan_output
from bigdecon.io.writing import create_ome_zarr, write_box, write_boxes
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.running.verification import verify_output
from bigdecon.volume import Volume

RESULT = Path(__file__).parent / "results" / "chaos.json"
SHAPE = (16, 64, 1280)
BLOCK, UNIT = 64, 128
PATIENCE = 180.0

# Worker processes load this too, as a preload: small regions, slow blocks that leave
# a line each, and places where a test may end the process.
SURROUNDINGS = """
import os, time
from dataclasses import replace
from bigdecon.running import block_size, training_settings
from bigdecon.config import NetworkConfig
from bigdecon.deconvolution import block, ledger

again = hasattr(block, "disturbed")  # Dask loads a preload more than once
if not again:
    preset, restore, mark = training_settings.training_preset, block.restore_block, ledger.Ledger.mark

def small(*choice, **how):
    network = NetworkConfig(how["ndim"], 4, 2)
    return replace(preset(*choice, **how), network=network, patch_shape=(16, 16, 16), batch=1,
                   checkpoint_every=10, evaluate_every=20)

def note(name, text):
    with open(os.path.join(os.environ["CHAOS"], name), "a") as file:
        file.write(f"{text}\\n")

def slowly(stack, deconvolver, core, grown, rules):
    time.sleep(float(os.environ.get("CHAOS_SECONDS", "0")))
    result = restore(stack, deconvolver, core, grown, rules)
    note("blocks", f"{os.getpid()} {core}")
    return result

def mark_or_end(self, key, record):
    last_word = os.path.join(os.environ["CHAOS"], "end-before-mark")
    if os.path.exists(last_word) and str(key.level) == open(last_word).read():
        os.remove(last_word)
        os._exit(9)
    mark(self, key, record)

if not again:
    training_settings.training_preset = small
    block_size.REGION_VOXELS = 1
    block.restore_block = slowly
    ledger.Ledger.mark = mark_or_end
    block.disturbed = True
"""
COMMAND = SURROUNDINGS + "\nif __name__ == '__main__':\n    from bigdecon_cli.main import main\n    main()\n"

CLASSICAL = ("--method", "richardson-lucy", "--iterations", "3", "--background", "0", "--sieve", "0")
TRAINED = (
    "--steps",
    "60",
)
COMMON = ("--json", "--no-report",
          "--device", "cpu", "--dashboard-address", "none", "--threads", "1", "--block", str(BLOCK),
          "--ome-version", "0.4")  # fmt: skip


@dataclass
class Case:
    """One folder with an image, its PSF, and the runs made there.

    Attributes
    ----------
    folder : of everything
    arguments : of the command, the same every time
    output : folder of the result
    seconds : what a block takes at least
    runs : how often the command was given, and with what code it ended
    """

    folder: Path
    arguments: tuple[str, ...]
    output: Path
    seconds: float = 0.15
    runs: list[int] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Of all processes."""
        return os.environ | {
            "CHAOS": str(self.folder),
            "CHAOS_SECONDS": str(self.seconds),
            "TMPDIR": str(self.folder),
            "OMP_NUM_THREADS": "1",
            # Workers do not import the script of the command, and take this from their configuration.
            "DASK_DISTRIBUTED__WORKER__PRELOAD": repr([str(self.folder / "surroundings.py")]),
        }

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Give the command."""
        words = [
            "run",
            "a.ome.zarr",
            "--psf",
            "psf.tif",
            "-o",
            str(self.output),
            *COMMON,
            *self.arguments,
            *more,
        ]
        return subprocess.Popen(
            [sys.executable, "command.py", *words],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=self.environment,
        )

    def end(self, process: subprocess.Popen[str]) -> int:
        """Wait for the command to end; gives its code."""
        out, err = process.communicate(timeout=PATIENCE)
        self.runs.append(process.returncode)
        if process.returncode not in (0, 3, -signal.SIGKILL, 9):
            raise RuntimeError(f"the command ended with {process.returncode}: {err or out[-2000:]}")
        return process.returncode

    def wait_for(self, process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
        """Wait for a moment in the run."""
        deadline = time.monotonic() + PATIENCE
        while not ready():
            if process.poll() is not None:
                raise RuntimeError(f"the run ended too early: {process.communicate()}")
            if time.monotonic() > deadline:
                raise TimeoutError("the moment did not come")
            time.sleep(0.01)

    @property
    def regions_written(self) -> int:
        """Regions of level 0 in the ledger."""
        return len(list((self.output / "bigdecon" / "ledger").glob("??/l0*.json")))

    @property
    def blocks_computed(self) -> int:
        """How many blocks have been restored, in all runs together."""
        log = self.folder / "blocks"
        return len(log.read_text().splitlines()) if log.exists() else 0


def write_case(folder: Path, shape: tuple[int, ...] = SHAPE) -> None:
    """Write image, PSF and command."""
    random = np.random.default_rng(0)
    points = np.zeros(shape)
    points[tuple(random.integers(0, n, 200) for n in shape)] = 4000
    data = random.poisson(gaussian_filter(points, 1.5) + 100).astype("uint16")
    size = (0.2,) * 3
    volume = Volume.from_array(data, "zyx", voxel_size_um=size)
    layout = plan_output(volume, dtype="uint16", ome_version="0.4", chunk=BLOCK, unit=BLOCK)
    create_ome_zarr(folder / "a.ome.zarr", volume, layout, name="a")
    for box in write_boxes(layout.levels[0]):
        write_box(folder / "a.ome.zarr", layout, 0, 0, 0, box, data[box])
    axes = np.meshgrid(*(np.arange(-3, 4) for _ in shape), indexing="ij")
    kernel = np.exp(-sum(a**2 for a in axes) / 4).astype("float32")
    save_psf(psf_from_array(kernel, voxel_size_um=size, psf_voxel_size_um=size), folder / "psf.tif")
    (folder / "command.py").write_text(COMMAND)
    (folder / "surroundings.py").write_text(SURROUNDINGS)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Worker processes of a command with a cluster of its own."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@contextmanager
def cluster(case: Case, workers: int = 1) -> Iterator[Cluster]:
    """Run a scheduler and workers as processes of their own."""
    made = Cluster(case)
    try:
        for _ in range(workers):
            made.add_worker()
        yield made
    finally:
        made.stop()


class Cluster:
    """A scheduler with workers that a scenario starts and kills one by one."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self.file = case.folder / f"scheduler-{time.monotonic_ns()}.json"
        self.scheduler = self._start(
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            str(self.file),
        )
        self.workers: list[subprocess.Popen[str]] = []
        deadline = time.monotonic() + PATIENCE
        while not self.file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def add_worker(self) -> subprocess.Popen[str]:
        """Start one more worker."""
        options = [
            "--nthreads",
            "1",
            "--memory-limit",
            "3GiB",
            "--no-dashboard",
        ]
        self.workers.append(self._start("worker", "--scheduler-file", str(self.file), *options))
        return self.workers[-1]

    def stop(self) -> None:
        """End all of it."""
        for process in [*self.workers, self.scheduler]:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self, *words: str) -> subprocess.Popen[str]:
        log = self._case.folder / f"{words[0]}-{time.monotonic_ns()}.log"
        with open(log, "w") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]],
                cwd=self._case.folder,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                text=True,
                start_new_session=True,
                env=self._case.environment,
            )


# --- scenarios: each returns how many blocks may have been in flight when something died ---

IN_A_REGION = UNIT // BLOCK


def worker_killed(case: Case) -> int:
    """SIGKILL of the worker while it restores: its nanny starts another, the run goes on by itself."""
    process = case.start()
    case.wait_for(process, lambda: case.regions_written >= 2)
    workers_of(process)[0].kill()
    expect(case.end(process), 0)
    return 2 * IN_A_REGION


def every_worker_killed_in_turn(case: Case) -> int:
    """SIGKILL of every worker, one after the other."""
    process = case.start("--workers", "2")
    for count in (2, 4):
        case.wait_for(process, lambda count=count: case.regions_written >= count)
        workers_of(process)[count // 2 - 1].kill()
    expect(case.end(process), 0)
    return 2 * 4 * IN_A_REGION


def client_killed(case: Case) -> int:
    """SIGKILL of the command, three times."""
    for count in (1, 3, 6):
        process = case.start()
        case.wait_for(process, lambda count=count: case.regions_written >= count)
        process.kill()
        case.end(process)
    expect(case.end(case.start()), 0)
    return 3 * 2 * IN_A_REGION


def scheduler_killed(case: Case) -> int:
    """SIGKILL of the scheduler of a cluster that somebody else runs: exit code 3; a new cluster goes on."""
    with cluster(case) as first:
        process = case.start("--cluster", str(first.file))
        case.wait_for(process, lambda: case.regions_written >= 2)
        os.killpg(first.scheduler.pid, signal.SIGKILL)
        expect(case.end(process), 3)
    expect(case.end(case.start()), 0)
    return 2 * IN_A_REGION


def a_worker_joins_late_and_one_leaves(case: Case) -> int:
    """A worker joins a running cluster; later the first one leaves politely: the run ends by itself."""
    with cluster(case) as running:
        process = case.start("--cluster", str(running.file))
        case.wait_for(process, lambda: case.regions_written >= 2)
        running.add_worker()
        with Client(scheduler_file=str(running.file), timeout=30) as client:
            client.wait_for_workers(2, timeout=60)
            first = min(client.scheduler_info()["workers"].items(), key=lambda item: item[1]["id"])[0]
            case.wait_for(process, lambda: case.regions_written >= 4)
            client.retire_workers([first])
        expect(case.end(process), 0)
    return 2 * IN_A_REGION


def ended_between_shard_and_ledger(case: Case) -> int:
    """The process ends when a region's shards are on disk, and not yet its entry in the ledger."""
    (case.folder / "end-before-mark").write_text("0")
    expect(case.end(case.start()), 9)
    expect(case.end(case.start()), 0)
    return 2 * IN_A_REGION


def ended_in_the_pyramid(case: Case) -> int:
    """The process ends while coarser levels are written."""
    (case.folder / "end-before-mark").write_text("1")
    expect(case.end(case.start()), 9)
    expect(case.end(case.start()), 0)
    return 0


def a_torn_edge_shard(case: Case) -> int:
    """A half-written shard at the edge of the array, as SIGKILL leaves it: it is written anew."""
    process = case.start()
    case.wait_for(process, lambda: case.regions_written >= 1)
    process.kill()
    case.end(process)
    tear_edge_shard(case)
    expect(case.end(case.start()), 0)
    return 2 * IN_A_REGION


def tear_edge_shard(case: Case) -> None:
    """Leave half a shard at the edge of the array, under its name and under that of a write in progress."""
    last = case.output / "0" / "0" / "0" / str(-(-SHAPE[-1] // UNIT) - 1)
    last.parent.mkdir(parents=True, exist_ok=True)
    last.write_bytes(b"torn")
    (last.parent / f"{last.name}.123.partial").write_bytes(b"torn")


def a_flipped_byte_in_an_input_chunk(case: Case) -> int:
    """A chunk that no longer decodes: its blocks are left out, exit code 3; mended, they alone are done."""
    chunk = case.folder / "a.ome.zarr" / "0" / "0" / "0" / "9"
    good = chunk.read_bytes()
    chunk.write_bytes(flipped(good))
    expect(case.end(case.start()), 3)
    before = case.blocks_computed
    chunk.write_bytes(good)
    expect(case.end(case.start()), 0)
    expect(case.blocks_computed - before, 3)  # the chunk's own block, and a neighbour on each side
    return 0


def flipped(good: bytes) -> bytes:
    """Flip a byte so that the chunk no longer decodes: Blosc has no checksum, so not every byte will do."""
    broken = bytearray(good)
    broken[12] ^= 0xFF  # the compressed size in Blosc's header
    return bytes(broken)


def a_full_disk(case: Case) -> int:
    """The output's disk, a small tmpfs, is full: one sentence and exit code 3; with more room it goes on."""
    disk = case.output.parent
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], check=True)
    try:
        expect(case.end(case.start()), 3)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        expect(case.end(case.start()), 0)
        shutil.copytree(case.output, case.folder / "saved")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    shutil.copytree(case.folder / "saved", case.output)
    return 2 * IN_A_REGION


def client_killed_in_training(case: Case) -> int:
    """SIGKILL of the command while it trains: the training goes on from its last checkpoint."""
    process = case.start()
    case.wait_for(process, (case.output / "bigdecon" / "training" / "channel-0.safetensors").exists)
    process.kill()
    case.end(process)
    expect(case.end(case.start()), 0)
    return 0


def worker_killed_in_training(case: Case) -> int:
    """SIGKILL of the worker while it trains: another one goes on from the last checkpoint."""
    process = case.start()
    case.wait_for(process, (case.output / "bigdecon" / "training" / "channel-0.safetensors").exists)
    workers_of(process)[0].kill()
    expect(case.end(process), 0)
    return 0


SCENARIOS: dict[Callable[[Case], int], tuple[str, ...]] = {
    worker_killed: CLASSICAL,
    every_worker_killed_in_turn: CLASSICAL,
    client_killed: CLASSICAL,
    scheduler_killed: CLASSICAL,
    a_worker_joins_late_and_one_leaves: CLASSICAL,
    ended_between_shard_and_ledger: CLASSICAL,
    ended_in_the_pyramid: CLASSICAL,
    a_torn_edge_shard: CLASSICAL,
    a_flipped_byte_in_an_input_chunk: CLASSICAL,
    a_full_disk: CLASSICAL,
    client_killed_in_training: TRAINED,
    worker_killed_in_training: TRAINED,
}


def three_misfortunes(case: Case) -> int:
    """Three scenarios in one run, for tests: between shard and ledger, a torn edge shard, in the pyramid."""
    (case.folder / "end-before-mark").write_text("0")
    expect(case.end(case.start()), 9)
    tear_edge_shard(case)
    (case.folder / "end-before-mark").write_text("1")
    expect(case.end(case.start()), 9)
    expect(case.end(case.start()), 0)
    return 2 * IN_A_REGION


class Surprise(AssertionError):
    """A scenario ended otherwise than promised."""


def expect(found: object, wanted: object) -> None:
    """Hold a scenario to its promise."""
    if found != wanted:
        raise Surprise(f"{found} instead of {wanted}")


# --- running them ------------------------------------------------------------------------------------------


def undisturbed(folder: Path, arguments: tuple[str, ...]) -> Path:
    """Give the result of a run that nobody disturbed, made once."""
    output = folder / f"undisturbed-{'-'.join(arguments[:2]).strip('-')}" / "out"
    if not output.exists():
        output.parent.mkdir()
        expect(case_end(Case(folder, arguments, output, seconds=0.0)), 0)
        (folder / "blocks").unlink()
    return output


def case_end(case: Case) -> int:
    """Give the command and wait."""
    return case.end(case.start())


def decoded(output: Path) -> list[np.ndarray]:
    """Give the voxels of all levels."""
    group = zarr.open_group(output, mode="r")
    return [np.asarray(group[name][:]) for name in sorted(n for n in group.array_keys())]


def disturb(
    scenario: Callable[[Case], int], folder: Path, arguments: tuple[str, ...] | None = None
) -> dict[str, object]:
    """Run one scenario and check what it promises.

    Parameters
    ----------
    scenario : disturbs a run; tells how many blocks were in flight at most
    folder : with what `write_case` writes
    arguments : of the command; those of SCENARIOS by default

    Raises
    ------
    Surprise
        if a promise is broken
    """
    arguments = SCENARIOS[scenario] if arguments is None else arguments
    expected = decoded(undisturbed(folder, arguments))
    output = folder / scenario.__name__ / "out"
    output.parent.mkdir()
    case = Case(folder, arguments, output)
    (folder / "blocks").unlink(missing_ok=True)
    began = time.monotonic()
    in_flight = scenario(case)
    found = decoded(output)
    expect([level.shape for level in found], [level.shape for level in expected])
    for level, (one, other) in enumerate(zip(found, expected, strict=True)):
        expect((level, np.count_nonzero(one != other)), (level, 0))
    expect(verify_output(output).sound, True)
    n_blocks = sum(
        len(r.digests) for k, r in Ledger(output / "bigdecon" / "ledger").read().items() if k.level == 0
    )
    twice = case.blocks_computed - n_blocks * IN_A_REGION
    if not 0 <= twice <= in_flight:
        raise Surprise(f"{twice} blocks were computed twice, at most {in_flight} were in flight")
    return {
        "scenario": scenario.__name__,
        "what": (scenario.__doc__ or "").strip(),
        "exit_codes": case.runs,
        "blocks": n_blocks * IN_A_REGION,
        "computed_twice": twice,
        "in_flight_at_most": in_flight,
        "identical": True,
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """Run the scenarios named, or all, and write what was seen."""
    import machine

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="scenarios; all by default")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    chosen = [s for s in SCENARIOS if not options.names or s.__name__ in options.names]
    rows = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        folder = Path(place)
        write_case(folder)
        for scenario in chosen:
            rows.append(disturb(scenario, folder))
            print(json.dumps(rows[-1]), flush=True)
    options.output.write_text(json.dumps({**machine.describe(), "scenarios": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
