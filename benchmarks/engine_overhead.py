"""Measure what scheduling a block costs, in either engine, and that the scheduler's memory does not grow.

    python benchmarks/engine_overhead.py            5 thousand blocks by map-overlap, 60 thousand directly,
                                                    one by one and in bundles (`running/bundles.py`)
    python benchmarks/engine_overhead.py --quick    some hundred each

Regions go through `restore_regions`, as in `bigdecon run`: the same graphs, write tasks and ledger, 16 blocks
a region and 8 a shard as with blocks of 128³, on a cluster as `--cluster local` starts it. Only the blocks
are tiny, there is nothing to read, and the method gives them back as they are. Scheduler and client share
this process, the worker has its own: the CPU time of this process is what bounds the number of workers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import machine
import numpy as np
import psutil
import zarr
from scipy.ndimage import uniform_filter

import bigdecon.running.regions as regions
from bigdecon.config import RunConfig
from bigdecon.deconvolution.lease import Lease
from bigdecon.deconvolution.packed_blocks import MethodOnWorkers
from bigdecon.deconvolution.tiling import BlockGrid, region_boxes
from bigdecon.distributed.cluster import Connection, connect
from bigdecon.distributed.progress import RegionDone
from bigdecon.io.layout import plan_output
from bigdecon.io.writing import create_ome_zarr, write_ome_zarr
from bigdecon.optics.psf import psf_from_array, save_psf
from bigdecon.running.bundles import Bundling
from bigdecon.running.methods_on_workers import MethodOfRegion, guarded
from bigdecon.running.planning import RunPlan, prepare
from bigdecon.volume import Box, Volume

HERE = Path(__file__).parent
RESULT = HERE / "results" / "engine_overhead.json"
PLOT = HERE.parent / "docs" / "scheduler_memory.png"
SIDE, HALO = 8, 2
BLOCKS = {"map-overlap": 5_000, "direct": 60_000, "bundles": 60_000}
QUICK_BLOCKS = {"map-overlap": 48, "direct": 192, "bundles": 192}
IN_A_BUNDLE = 8
SAMPLE_SECONDS = 0.5
FLAT_MIB = 64
"""Growth of the scheduler's memory, from the first quarter of the time to the last, that counts as flat."""

Engine = Literal["map-overlap", "direct"]
Way = Literal["map-overlap", "direct", "bundles"]
"""Bundles are a way of the engine direct."""
FLOAT = np.dtype(np.float32)


@dataclass(frozen=True)
class Nothing:
    """A source without voxels: what a block costs is not the reading."""

    shape: tuple[int, ...]
    dtype: Any = FLOAT

    @property
    def chunks(self) -> tuple[int, ...]:
        """One for a region and more."""
        return tuple(min(128, n) for n in self.shape)

    def __getitem__(self, selection: Box, /) -> np.ndarray:
        """Give zeros."""
        return np.zeros([part.stop - part.start for part in selection], self.dtype)


class AsItIs:
    """A method that does nothing."""

    name, halo, alignment = "as-it-is", (HALO,) * 3, 1

    def __call__(self, block: np.ndarray, /) -> np.ndarray:
        """Give the block back."""
        return np.asarray(block, np.float32)


class LocalMean(AsItIs):
    """A method that looks at neighbours: a wrong halo would show."""

    def __call__(self, block: np.ndarray, /) -> np.ndarray:
        """Average as far as the halo reaches."""
        return uniform_filter(np.asarray(block, np.float32), 2 * HALO + 1, mode="nearest")


@dataclass
class Samples:
    """How the process of scheduler and client developed.

    Attributes
    ----------
    blocks : finished by then
    rss_MiB : memory held by this process
    tasks : that the scheduler knew
    """

    blocks: list[int] = field(default_factory=list)
    rss_MiB: list[float] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Cost:
    """One way's; seconds a block, and the memory of scheduler and client in MiB."""

    engine: Way
    blocks_in_bundle: int
    blocks: int
    regions: int
    wall_seconds_per_block: float
    scheduler_seconds_per_block: float
    worker_seconds_per_block: float
    memory_first_quarter: float
    memory_last_quarter: float
    most_tasks: int

    @property
    def flat(self) -> bool:
        """Whether the memory stayed as it was."""
        return self.memory_last_quarter - self.memory_first_quarter < FLAT_MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="some dozens of blocks")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--plot", type=Path, default=PLOT)
    options = parser.parse_args()
    wanted = QUICK_BLOCKS if options.quick else BLOCKS
    costs, histories = [], {}
    with tempfile.TemporaryDirectory() as folder:
        base = make_plan(Path(folder))
        for way, blocks in wanted.items():
            with connect("local", workers=1, device="cpu", dashboard_address="none") as connection:
                warm_up(base, way, connection)
                cost, samples = measure(base, way, blocks, connection)
            print(cost, flush=True)
            costs.append(cost)
            histories[way] = samples
        with connect("local", workers=1, device="cpu", dashboard_address="none") as connection:
            same = identical_bytes(base, connection)
    draw(options.plot, histories)
    result = {
        **machine.describe(),
        "quick": options.quick,
        "engines": {cost.engine: {**asdict(cost), "flat": cost.flat} for cost in costs},
        "identical_bytes": same,
        "samples": {engine: asdict(samples) for engine, samples in histories.items()},
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result) + "\n")
    if not same or not all(cost.flat for cost in costs):
        raise SystemExit("the engines differ, or the scheduler's memory grows")


# --- plans ----------------------------------------------------------------------------------------


def make_plan(folder: Path) -> RunPlan:
    """Prepare a run on a small image; blocks and regions are cut anew for each measurement."""
    data = np.random.default_rng(0).poisson(100, (32, 32, 32)).astype(np.uint16)
    write_ome_zarr(
        Volume.from_array(data, "zyx", voxel_size_um=(1, 1, 1)), folder / "a.ome.zarr", dtype="uint16"
    )
    delta = np.zeros((3, 3, 3), np.float32)
    delta[1, 1, 1] = 1
    save_psf(psf_from_array(delta, voxel_size_um=(1,) * 3, psf_voxel_size_um=(1,) * 3), folder / "psf.tif")
    config = RunConfig(
        str(folder / "a.ome.zarr"),
        (str(folder / "psf.tif"),),
        output=str(folder / "out.ome.zarr"),
        method="richardson-lucy",
        iterations=1,
        sieve=0.0,
        background=0.0,
    )
    return prepare(config, "cpu")


def cut(base: RunPlan, volume: Volume, engine: Engine, name: str) -> RunPlan:
    """Cut a volume into tiny blocks: 8 a shard and 16 a region, as with blocks of 128 voxels a side."""
    grid = BlockGrid.plan(volume.spatial_shape, SIDE, HALO)
    layout = plan_output(volume, chunk=SIDE, shard=2 * SIDE, unit=SIDE)
    boxes = region_boxes(grid, layout.write_shape, target_voxels=16 * SIDE**3)
    output = base.output.with_name(f"{name}-{engine}.ome.zarr")
    return replace(
        base, volume=volume, grid=grid, layout=layout, regions=tuple(boxes), engine=engine, output=output
    )


def blocks_of(count: int) -> tuple[int, ...]:
    """Give the extent of a volume of about so many blocks, in voxels; whole regions."""
    side = max(1, round((count / 16) ** (1 / 3)))
    return (4 * side * SIDE, 2 * side * SIDE, 2 * max(1, round(count / 16 / side**2)) * SIDE)


# --- measuring ------------------------------------------------------------------------------------


def engine_of(way: Way) -> Engine:
    return "direct" if way == "bundles" else way


def warm_up(base: RunPlan, way: Way, connection: Connection) -> None:
    plan = cut(base, Volume(Nothing(blocks_of(64)), "zyx"), engine_of(way), f"warm-up-{way}")
    walk(plan, AsItIs(), connection, bundled=way == "bundles")


def walk(
    plan: RunPlan,
    method: Any,
    connection: Connection,
    samples: Samples | None = None,
    bundled: bool | None = None,
) -> None:
    """Restore all regions as a run does; `bundled` decides what a run decides by the time of its blocks."""

    def note(event: Any) -> None:
        if samples is not None and isinstance(event, RegionDone):
            done[0] = event.done * len(plan.grid) // len(plan.regions)

    done = [0]
    create_ome_zarr(plan.output, plan.volume, plan.layout, name="output")
    original, suits = regions.method_of_channel, Bundling.suits
    regions.method_of_channel = partial(method_for, method)  # type: ignore[assignment]
    if bundled is not None:
        Bundling.suits = lambda self, key: bundled  # type: ignore[method-assign]
    try:
        with Lease(plan.bookkeeping) as lease, sampling(samples, done, connection):
            regions.restore_regions(plan, connection, (), note, lease)
    finally:
        regions.method_of_channel = original
        Bundling.suits = suits  # type: ignore[method-assign]


def method_for(
    method: Any, plan: RunPlan, channel: int, models: Any, connection: Connection, run_id: str
) -> MethodOfRegion:
    """Take the place of `method_of_channel` with a method of our own, which travels with the blocks."""
    return lambda region: MethodOnWorkers(partial(guarded, partial(_given, method), run_id, region))


def _given(method: Any) -> Any:
    return method


@contextmanager
def sampling(samples: Samples | None, done: list[int], connection: Connection) -> Iterator[None]:
    """Look at this process from time to time."""
    if samples is None:
        yield
        return
    over, this = threading.Event(), psutil.Process()
    scheduler = connection.client.cluster.scheduler

    def look() -> None:
        samples.blocks.append(done[0])
        samples.rss_MiB.append(round(this.memory_info().rss / 2**20, 1))
        samples.tasks.append(len(scheduler.tasks))

    def watch() -> None:
        while not over.wait(SAMPLE_SECONDS):
            look()

    look()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()


def measure(base: RunPlan, way: Way, count: int, connection: Connection) -> tuple[Cost, Samples]:
    plan = cut(base, Volume(Nothing(blocks_of(count)), "zyx"), engine_of(way), f"measured-{way}")
    blocks, samples = len(plan.grid), Samples()
    worker_before = worker_seconds(connection)
    wall, own = time.perf_counter(), time.process_time()
    walk(plan, AsItIs(), connection, samples, bundled=way == "bundles")
    own, wall = time.process_time() - own, time.perf_counter() - wall
    quarter = max(1, len(samples.rss_MiB) // 4)
    cost = Cost(
        way,
        IN_A_BUNDLE if way == "bundles" else 1,
        blocks,
        len(plan.regions),
        round(wall / blocks, 6),
        round(own / blocks, 6),
        round((worker_seconds(connection) - worker_before) / blocks, 6),
        float(np.median(samples.rss_MiB[:quarter])),
        float(np.median(samples.rss_MiB[-quarter:])),
        max(samples.tasks),
    )
    return cost, samples


def worker_seconds(connection: Connection) -> float:
    """CPU time of the workers so far."""
    return sum(connection.client.run(time.process_time).values())


def identical_bytes(base: RunPlan, connection: Connection) -> bool:
    """Restore noise with either engine, by a method that looks at neighbours, and compare the results."""
    noise = np.random.default_rng(1).normal(100, 10, (40, 36, 52)).astype(np.float32)
    path = base.output.with_name("noise.ome.zarr")
    write_ome_zarr(Volume.from_array(noise, "zyx"), path)
    from bigdecon.io.reading import open_volume

    found: list[np.ndarray] = []
    ways: tuple[Way, ...] = ("map-overlap", "direct", "bundles")
    for way in ways:
        plan = cut(base, open_volume(path), engine_of(way), f"noise-{way}")
        walk(plan, LocalMean(), connection, bundled=way == "bundles")
        found.append(np.asarray(zarr.open_array(plan.output / "0", mode="r")[...]))
    whole = LocalMean()(noise)
    same = len({each.tobytes() for each in found}) == 1
    return same and bool(np.allclose(found[0], whole, rtol=1e-5))


def draw(path: Path, histories: dict[str, Samples]) -> None:
    """Plot the memory of scheduler and client over the blocks finished."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(histories), figsize=(12, 3.2), layout="constrained")
    for panel, (engine, samples) in zip(panels, histories.items(), strict=True):
        panel.plot(samples.blocks, samples.rss_MiB, color="#0072B2")
        panel.set(title=engine, xlabel="blocks finished", ylabel="memory of scheduler and client, MiB")
        panel.set_ylim(0, 1.3 * max(samples.rss_MiB))
        panel.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
