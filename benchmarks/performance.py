"""Write docs/performance.md from the results that the benchmarks of speed have kept.

    python benchmarks/performance.py

No figure on the page is typed; what has not been measured is said to be missing.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
Result = dict[str, Any]

HEAD = """\
# Speed

Made by `benchmarks/performance.py` from the results in `benchmarks/results/`; no number here is
typed. Times differ from machine to machine, and a shared one is slow in its own way: what counts
are ratios, measured by turns in one process or one run. Each benchmark compares results before it
compares times.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    options.output.write_text(page(options.results))


def page(results: Path) -> str:
    """Give the whole page."""
    parts = [
        HEAD,
        section(results / "training_against_reference.json", "Training on a CPU", training),
        section(results / "inference_peak.json", "The network on a CPU", inference),
        section(results / "richardson_lucy_peers.json", "Richardson–Lucy on a CPU", richardson_lucy),
        section(results / "timeline.json", "What is left of a training step", timeline),
        section(results / "storage.json", "Reading and writing Zarr", storage),
        section(results / "overlap.json", "From Zarr to Zarr", overlap),
        section(results / "block_size.json", "Blocks by the memory", block_size),
        section(results / "many_workers.json", "Scheduling", scheduling),
    ]
    return "\n".join(parts)


def section(path: Path, title: str, write: Any) -> str:
    head = f"## {title}\n\n"
    if not path.exists():
        return f"{head}Not measured yet: `results/{path.name}` is missing.\n"
    result: Result = json.loads(path.read_text())
    return f"{head}{write(result)}\n{provenance(result, path)}"


def provenance(result: Result, path: Path) -> str:
    """Say on what machine, when and with which versions a result was measured."""
    computer, versions = result["machine"], result["versions"]
    return (
        f"`results/{path.name}`: {computer['processor']}, {computer['cores']} cores, "
        f"torch {versions['torch']}, Python {versions['python']}, {result['date'][:10]}, "
        f"commit `{result['commit']}`.\n"
    )


def training(result: Result) -> str:
    kinds = list(result["times_as_fast"])
    rows = [
        (
            kind,
            f"{1000 * result['seconds_a_step'][kind]:.0f} ms",
            f"{result['times_as_fast'][kind]:.1f}",
            f"{result['of_convolution_peak'][kind]:.0%}",
            f"{result['data_preparation'][kind]:.1%}",
        )
        for kind in kinds
    ]
    reference = 1000 * result["seconds_a_step"]["reference"]
    limits = [
        f"{kind} {result['seconds_a_step']['reference'] / least_seconds(result, kind):.1f}" for kind in kinds
    ]
    head = (
        "precision",
        "a step",
        "times as fast as the reference",
        "of the convolutions' peak",
        "preparing data",
    )
    names = list(result["shares"][kinds[0]])
    left = [(name, *(f"{result['shares'][kind][name]:.1%}" for kind in kinds)) for name in names]
    return f"""\
One step: {result["step"]}; {how(result)}. The reference is the step of the paper's public code,
written anew in plain PyTorch (`benchmarks/reference_step.py`), in float32: {reference:.0f} ms. Loss
and gradient agree with it to {max(result["largest_difference"].values()):.0e}. bfloat16 is used
where the processor computes with it and the preset asks for mixed precision, as `fast` does.

{table(head, rows)}

The peak is the best that this machine made of single 3×3×3 convolutions of the same numbers of
channels, forward and backward, in any layout. With nothing but convolutions at that speed a step
would be so many times as fast as the reference: {", ".join(limits)}. What a step consists of:

{table(("part", *kinds), left)}
"""


def least_seconds(result: Result, kind: str) -> float:
    """Give the seconds that a step would take were it nothing but convolutions at their best."""
    return float(result["of_convolution_peak"][kind] * result["seconds_a_step"][kind])


def inference(result: Result) -> str:
    block = "×".join(map(str, result["block"]))
    return f"""\
A block of {block} voxels through a network of {result["channels"]} channels in float32, from array
to array; {how(result)}: {result["Mvoxel_per_second"]} million voxels a second,
{result["of_convolution_peak"]:.0%} of what its convolutions alone would reach at the machine's
best, and {result["times_as_fast"]:.1f} times as fast as the same network called in torch's default
layout. The results differ by {result["largest_difference"]:.0e} of the range.
"""


def richardson_lucy(result: Result) -> str:
    peers = sorted({peer for case in result["cases"] for peer in case["times_as_fast"]})
    rows = [
        (
            "×".join(map(str, case["image"])),
            "×".join(map(str, case["psf"])),
            f"{case['seconds']['bigdecon']:.2f} s",
            *(f"{case['times_as_fast'][p]:.1f}" if p in case["times_as_fast"] else "–" for p in peers),
        )
        for case in result["cases"]
    ]
    versions = ", ".join(f"{name} {version}" for name, version in result["peers"].items() if version)
    loads = [case["load_at_start"] for case in result["cases"]]
    return f"""\
{result["iterations"]} iterations with exact edges on {result["threads"]} threads, and how many
times as long others took in the same run ({versions or "no peer was at hand"}). RedLionfish takes
images to be periodic and uses one thread; "edges" is the image grown by the PSF's radius first, the
same voxels as here. As it is, it works on fewer voxels, and is quicker where the PSF is large
beside the image. Load of the machine: {min(loads)} to {max(loads)}.

{table(("image", "PSF", "bigdecon", *(f"{peer}, times as long" for peer in peers)), rows)}
"""


def timeline(result: Result) -> str:
    names = list(result["shares"])
    return f"""\
One step as torch's profiler saw it, which slows it down a little: {result["step"]}, in
{result["precision"]} on {result["threads"]} threads, at a load of {result["load_at_start"]}:
{result["step_ms"]:.0f} ms. The gradient of the PSF and the loss is part of "backward".

![The stages of a training step over time, and below them what the processor did](training_timeline.png)

{table(names, [[f"{result['shares'][name]:.1%}" for name in names]])}
"""


def storage(result: Result) -> str:
    rows = [
        (
            case["dtype"],
            kind,
            f"{rate(case, kind):.0f} MB/s",
            f"{case['of_codec_speed'][kind]:.0%}",
            f"{case['of_codec_and_file_speed'][kind]:.0%}",
            f"{case['processor_seconds'][kind] / case['processor_seconds'][f'{kind}, codec']:.2f}",
            f"{case['tensorstore_times_as_fast'].get(kind, '–')}",
        )
        for case in result["cases"]
        for kind in ("read", "write")
    ]
    case = result["cases"][0]
    chunk, shard, decoded = case["chunk"][0], case["shard"][0], case["decoded_for_one_voxel_read"]
    hashing = [f"{one['seconds']['hash'] / one['seconds']['write, codec']:.0%}" for one in result["cases"]]
    by_zarr = [
        f"{one['times_as_fast_as_zarr']:.1f}" for one in result["cases"] if "times_as_fast_as_zarr" in one
    ]
    than_zarr = (
        f" Files are those that zarr writes, {' and '.join(by_zarr)} times as fast." if by_zarr else ""
    )
    head = (
        "voxels",
        "",
        "as a run does it",
        "of the codec's speed",
        "of codec and plain files, one after the other",
        "processor time, times the codec's",
        "tensorstore, times as fast",
    )
    beside = "tensorstore was not there to be timed."
    if result["tensorstore"]:
        gain = with_tensorstore(result)
        beside = f"""\
Were tensorstore to read uint16 and to write float32 instead, both together would be {gain:.1f} times as fast:
it is {"no dependency" if gain < 1.3 else "worth another look"}."""
    return f"""\
Chunks of {chunk}³ in a shard of {shard}³, noisy voxels, {result["threads"]} threads, at a load of
{result["load_at_start"]}. Reading is of eight blocks together with their halo, as a run reads them where
blocks are quick: {decoded:.1f} voxels are decoded for one that is asked for, as the halo reaches into the
chunks around (8 for blocks alone). The codec alone decodes the same chunks in as many threads, without
files, and without copying what is asked for to its place; plain files are the same bytes, read in as many
threads, or written and flushed. Writing includes flushing to the disk and the hash for the ledger, which
alone takes {" and ".join(hashing)} of the time of packing in all threads.{than_zarr}

{table(head, rows)}

{beside}
"""


def with_tensorstore(result: Result) -> float:
    """Give how many times as fast a block would be read (as uint16) and written (as float32) together."""
    read, write = (next(c for c in result["cases"] if c["dtype"] == kind) for kind in ("uint16", "float32"))
    written = math.prod(s // c for s, c in zip(write["shard"], write["chunk"], strict=True))

    def seconds(way: str) -> float:
        return float(read["seconds"][f"read{way}"] / 8 + write["seconds"][f"write{way}"] / written)

    return seconds("") / seconds(", tensorstore")


def rate(case: Result, kind: str) -> float:
    """Give the decoded megabytes a second."""
    megabytes = case["MB_read"] if kind == "read" else case["MB"]
    return float(megabytes / case["seconds"][kind])


def overlap(result: Result) -> str:
    rows = [
        (
            f"{case['times_io']:g}",
            f"{1000 * case['device_seconds']:.0f} ms",
            f"{case['busy']:.0%}",
            f"{case['busy_between']:.0%}",
            f"{case['most_possible']:.0%}",
        )
        for case in result["cases"]
    ]
    side = "×".join(map(str, result["block"]))
    io, gpu = result["io_seconds_per_block"], result["h200_seconds_per_block"]
    head = (
        "device, in times of reading and writing",
        "a block",
        "busy",
        "between first and last block",
        "if reading and writing took as long as alone",
    )
    return f"""\
One worker with {result["threads"]} threads, and a stand-in for its GPU that takes a known time
without the processors: {result["blocks"]} blocks of {side} voxels with a halo of {result["halo"]},
from a store to a store.
Without a device, a block takes {1000 * io:.0f} ms there, on {result["machine"]["cores"]} cores at a load of
{result["load_at_start"]}. All runs wrote the same bytes.

{table(head, rows)}

So few blocks have a long beginning and end, in which there is nothing to compute yet, or only to write.
At {result["h200_tflops_assumed"]} TFLOP/s, which is assumed of an H200 and not measured, a block takes
{1000 * gpu:.0f} ms through the network: with the cores of this machine, the device could be busy at most
{min(1.0, gpu / io):.0%} of the time, as it waits for reading and writing. The worker took
{result["worker_peak_MiB"]} MiB at most, of {result["planned_peak_MiB"]} MiB planned.
"""


def block_size(result: Result) -> str:
    rows = [
        (
            case["method"],
            kind,
            f"{run['block']}³",
            str(run["blocks"]),
            f"{run['computed']:.2f}",
            f"{run['seconds']:.0f} s",
            f"{run['processor_seconds']:.0f} s",
            f"{run['worker_peak_MiB']} of {run['planned_peak_MiB']} MiB",
        )
        for case in result["cases"]
        for kind, run in (("default", case["default"]), ("`--block auto`", case["auto"]))
    ]
    head = (
        "method",
        "",
        "block",
        "blocks",
        "computed for one written",
        "time",
        "of the processor",
        "worker's peak, of planned",
    )
    gains = [
        f"- `{case['method']}` is {case['times_as_fast_by_processor']:.2f} times as fast with `auto` by the "
        f"processor's time{by_clock(result, case)}, and computes "
        f"{1 / case['times_computed']:.0%} of the voxels; the results differ by "
        f"{case['largest_difference']:.2g} of the range."
        for case in result["cases"]
    ]
    shape = "×".join(map(str, result["shape"]))
    return f"""\
A volume of {shape} voxels with blocks of 128 and with those that `--block auto` takes on this machine: whole
runs by turns, one worker with {result["threads"]} threads, deconvolving and writing alone, at a load of
{result["load_at_start"]} at first. Richardson–Lucy has {result["iterations"]} iterations, the network is
that of the preset `fast`. On a machine that others use, the processor's time counts.

{table(head, rows)}

{join(gains)}
"""


def by_clock(result: Result, case: Result) -> str:
    """Give the ratio of times, where the machine was not kept busy by others."""
    shared = result["load_at_start"] > result["threads"]
    return "" if shared else f", {case['times_as_fast']:.2f} times by the clock"


def join(lines: Sequence[str]) -> str:
    return "\n".join(lines)


def scheduling(result: Result) -> str:
    found, cores = result["throughput"], result["machine"]["cores"]
    own, most = 1000 * found["scheduler_cpu_seconds_per_block"], result["growth"][-1]["blocks"]
    short = ""
    if "short_run" in result:
        brief = result["short_run"]
        short = f" In a run of {brief['blocks']} blocks, beginning and end leave {brief['efficiency']:.0%}."
    return f"""\
{found["workers"]} simulated workers whose blocks take 0.3 s each were busy {found["efficiency"]:.0%} of the
time ({found["blocks"]} blocks); they shared {cores} cores with scheduler and client, which spent {own:.1f} ms
of processor time on a block.{short} The time
of blocks that take none grows with their number to the power of {result["exponent"]:.2f}, up to {most}.
"""


def how(result: Result) -> str:
    threads = result["threads"]
    clock = "by the processor's time" if result["clock"] == "cpu" else "by the clock on the wall"
    return f"{threads} thread{'s' * (threads > 1)}, {clock}, at a load of {result['load_at_start']}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
