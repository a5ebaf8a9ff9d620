"""Time the network's inference on a CPU against the machine's best convolutions.

    python benchmarks/inference_peak.py                            two threads
    python benchmarks/inference_peak.py --threads 1 --clock cpu    on a machine that others use too

A block of 128^3 voxels goes through `NetworkDeconvolver`, from array to array, with the network of the `fast`
preset. The result must agree with the network as it was trained, run without any of what makes it quick here.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # as in the workers of `bigdecon run`, before torch is there
import torch
from conv_peak import ConvPeaks, Interleaved, convolution_flops, run_benchmark

from bigdecon import training_preset
from bigdecon.deconvolution.network import NetworkDeconvolver
from bigdecon.intensity import IntensityStats
from bigdecon.learning.checkpoint import Checkpoint
from bigdecon.learning.unet import PassNorm, UNet

RESULT = Path(__file__).parent / "results" / "inference_peak.json"
EXTENTS = ((16, 48), (16, 96), (32, 48), (64, 24), (64, 32))
STATS = IntensityStats(100.0, 20.0, 0.0, 1000.0, 90.0)
TOLERANCE = 1e-4


def main() -> None:
    run_benchmark(__doc__, measure, RESULT, side=128, rounds=3)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    load = os.getloadavg()[0]
    extents = sorted({(channels, min(side, options.side)) for channels, side in EXTENTS})
    checkpoint = untrained()
    deconvolver = NetworkDeconvolver(checkpoint, threads=options.threads)
    block = np.random.default_rng(0).normal(100, 20, (options.side,) * 3).astype(np.float32)
    plain = plainly(checkpoint)
    difference = float(np.abs(deconvolver(block) - plain(block)).max() / np.ptp(plain(block)))
    if difference > TOLERANCE:
        raise SystemExit(f"the results differ by {difference:.2g} of the range; nothing was timed")
    peak = ConvPeaks(torch.float32, False, extents, batch=1)
    works: dict[str, Callable[[], object]] = {
        "bigdecon": lambda: deconvolver(block),
        "plain": lambda: plain(block),
    }
    timings = Interleaved(options.clock)
    convolutions = peak.works("conv")
    Interleaved(options.clock).run(convolutions, 1)
    timings.run(works | convolutions, options.rounds)
    shape = (1, 1, *(64,) * 3)
    flops = convolution_flops(checkpoint.network(), torch.zeros(shape), backward=False)
    rates = peak.flops_per_second(timings, "conv")
    least = sum(n / rates[c] for c, n in flops.items()) * (options.side / 64) ** 3
    seconds = {name: timings.best(name) for name in works}
    return {
        "threads": options.threads,
        "clock": options.clock,
        "load_at_start": round(load, 1),
        "block": [options.side] * 3,
        "channels": checkpoint.config.network.channels,
        "largest_difference": difference,
        "seconds": {name: round(s, 3) for name, s in seconds.items()},
        "times_as_fast": round(seconds["plain"] / seconds["bigdecon"], 2),
        "of_convolution_peak": round(least / seconds["bigdecon"], 3),
        "convolution_peak_GFLOPs": {str(c): round(r / 1e9, 1) for c, r in rates.items()},
        "Mvoxel_per_second": round(options.side**3 / seconds["bigdecon"] / 1e6, 2),
    }


def untrained() -> Checkpoint:
    """Give a network whose normalisation is none that folding could leave out."""
    config = training_preset("fast", ndim=3, accelerator=False)
    torch.manual_seed(0)
    network = UNet(config.network)
    for norm in network.modules():
        if isinstance(norm, PassNorm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    return Checkpoint(weights, config, STATS, np.ones((1, 1, 1), np.float32), "", None)


def plainly(checkpoint: Checkpoint) -> Callable[[np.ndarray], np.ndarray]:
    """Give the network in torch's default layout, as one would call it without further thought."""
    network = checkpoint.network()
    scaling = checkpoint.scaling(STATS)

    def restore(block: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            x = torch.from_numpy(scaling.apply(block))[None, None]
            return scaling.restore(network(x)[0, 0].numpy())

    return restore


if __name__ == "__main__":
    main()
