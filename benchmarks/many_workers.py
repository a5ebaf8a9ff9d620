"""Measure how many workers one scheduler keeps busy, and that the time grows with the blocks and no faster.

    python benchmarks/many_workers.py            64 workers, blocks of 0.3 s, 26 and 5 thousand of them; 64 to
                                                 60 thousand quick blocks
    python benchmarks/many_workers.py --quick    8 workers, some hundred blocks

Workers are simulated: they live in eight processes beside this one, and a block is 0.3 s of sleep, as if a
GPU worked. The rest is real: a scheduler, connections, regions, shards and the ledger, as in `bigdecon run`
(see `engine_overhead.py`, whose plans these are). Scheduler and client share this process. Efficiency is the
time that the blocks alone would take on all workers, over the time it took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import dask
import engine_overhead
import machine
import numpy as np
from distributed import Client, LocalCluster, Worker
from engine_overhead import AsItIs, Nothing, blocks_of, cut, make_plan, walk

from bigdecon.distributed.cluster import Connection, connect
from bigdecon.running.planning import RunPlan
from bigdecon.volume import Box, Volume

HERE = Path(__file__).parent
RESULT = HERE / "results" / "many_workers.json"
PLOT = HERE.parent / "docs" / "blocks_and_time.png"
BLOCK_SECONDS = 0.3
WORKERS, QUICK_WORKERS = 64, 8
START_SECONDS = 120
PROCESSES = 8
"""That the workers live in: threads of one process wait for one another."""
BLOCKS_PER_WORKER, QUICK_BLOCKS_PER_WORKER = (400, 80), (20,)
"""A volume of a terabyte has some thousand for each; few show what beginning and end of a run cost."""
COUNTS, QUICK_COUNTS = (64, 256, 1024, 4096, 16_384, 60_000), (64, 256)


class Ramp(Nothing):
    """A source without two equal voxels: constant blocks would be restored once only."""

    def __getitem__(self, selection: Box, /) -> np.ndarray:
        """Count upwards."""
        shape = [part.stop - part.start for part in selection]
        return np.arange(np.prod(shape), dtype=self.dtype).reshape(shape)


class Sleeping(AsItIs):
    """A method that takes its time."""

    def __call__(self, block: np.ndarray, /) -> np.ndarray:
        """Wait as for a GPU, and give the block back."""
        time.sleep(BLOCK_SECONDS)
        return np.asarray(block, np.float32)


@dataclass(frozen=True)
class Throughput:
    """Blocks of 0.3 s on many workers; efficiency is 1 where no worker ever waits."""

    workers: int
    blocks: int
    ideal_seconds: float
    wall_seconds: float
    efficiency: float
    scheduler_cpu_seconds_per_block: float


@dataclass(frozen=True)
class Growth:
    """Blocks that take no time: how many, and the time of all."""

    blocks: int
    wall_seconds: float
    cpu_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few workers, some hundred blocks")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--plot", type=Path, default=PLOT)
    options = parser.parse_args()
    workers = QUICK_WORKERS if options.quick else WORKERS
    lengths = QUICK_BLOCKS_PER_WORKER if options.quick else BLOCKS_PER_WORKER
    with tempfile.TemporaryDirectory() as folder:
        base = make_plan(Path(folder))
        throughputs = [measure_throughput(base, workers, per_worker) for per_worker in lengths]
        growth = measure_growth(base, QUICK_COUNTS if options.quick else COUNTS)
    exponent = float(np.polyfit(*np.log([(g.blocks, g.cpu_seconds) for g in growth]).T, 1)[0])
    draw(options.plot, growth)
    result = {
        **machine.describe(),
        "quick": options.quick,
        "throughput": asdict(throughputs[0]),
        "short_run": asdict(throughputs[-1]),
        "growth": [asdict(each) for each in growth],
        "exponent": round(exponent, 3),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")


def measure_throughput(base: RunPlan, workers: int, per_worker: int) -> Throughput:
    """Restore blocks that take 0.3 s each on simulated workers."""
    with simulated_workers(workers) as connection:
        small = cut(base, Volume(Ramp(blocks_of(4 * workers)), "zyx"), "direct", f"warm-up{per_worker}")
        walk(small, AsItIs(), connection)
        plan = cut(base, Volume(Ramp(blocks_of(workers * per_worker)), "zyx"), "direct", f"many{per_worker}")
        wall, cpu = time.perf_counter(), time.process_time()
        walk(plan, Sleeping(), connection)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    blocks = len(plan.grid)
    ideal = blocks * BLOCK_SECONDS / workers
    found = Throughput(workers, blocks, ideal, round(wall, 3), round(ideal / wall, 4), round(cpu / blocks, 6))
    print(found, flush=True)
    return found


def measure_growth(base: RunPlan, counts: tuple[int, ...]) -> list[Growth]:
    """Restore more and more blocks that take no time on one real worker."""
    found = []
    with connect("local", workers=1, device="cpu", dashboard_address="none") as connection:
        small = cut(base, Volume(Ramp(blocks_of(64)), "zyx"), "direct", "growth-warm-up")
        walk(small, AsItIs(), connection)
        for count in counts:
            plan = cut(base, Volume(Ramp(blocks_of(count)), "zyx"), "direct", f"growth{count}")
            before = engine_overhead.worker_seconds(connection)
            wall, cpu = time.perf_counter(), time.process_time()
            walk(plan, AsItIs(), connection)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            cpu += engine_overhead.worker_seconds(connection) - before
            found.append(Growth(len(plan.grid), round(wall, 3), round(cpu, 3)))
            print(found[-1], flush=True)
    return found


@contextmanager
def simulated_workers(count: int) -> Iterator[Connection]:
    """Connect to a scheduler of this process, and to many workers in another."""
    with (
        LocalCluster(n_workers=0, dashboard_address=None, silence_logs=40) as cluster,
        Client(cluster) as client,
    ):
        # TCP, as on a cluster: LocalCluster would take the short way within the process.
        share = max(4, -(-count // PROCESSES))  # a process takes seconds of imports
        starts = range(0, count, share)
        arguments = [(cluster.scheduler_address, range(a, min(a + share, count))) for a in starts]
        spawn = multiprocessing.get_context("spawn")
        processes = [spawn.Process(target=_work, args=one, daemon=True) for one in arguments]
        for process in processes:
            process.start()
        client.wait_for_workers(count, timeout=START_SECONDS)
        try:
            with connect(client) as connection:
                yield connection
        finally:
            client.retire_workers()
            for process in processes:
                process.join(10)
                process.kill()


def _work(address: str, numbers: range) -> None:
    """Be many workers of one thread each, until the scheduler retires them."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    # Each would sample the stacks of all threads a hundred times a second, those of the others as well.
    # and look at the machine twice a second, which each would do for all of its process.
    dask.config.set(
        {"distributed.worker.profile.enabled": False, "distributed.admin.system-monitor.interval": "10s"}
    )

    async def live() -> None:
        workers = [
            await Worker(address, nthreads=1, name=f"w{i}", memory_limit=None, dashboard=False)
            for i in numbers
        ]
        await asyncio.gather(*(worker.finished() for worker in workers))

    asyncio.run(live())


def draw(path: Path, growth: list[Growth]) -> None:
    """Plot time over blocks, with a line of slope one."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    blocks = np.array([g.blocks for g in growth])
    seconds = np.array([g.wall_seconds for g in growth])
    figure, panel = plt.subplots(figsize=(5, 3.4), layout="constrained")
    panel.loglog(blocks, seconds, "o", color="#0072B2", label="measured")
    panel.loglog(blocks, seconds[-1] * blocks / blocks[-1], "--", color="#767676", label="in proportion")
    panel.set(xlabel="blocks", ylabel="time of scheduling and writing them, s")
    panel.legend(frameon=False)
    panel.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
