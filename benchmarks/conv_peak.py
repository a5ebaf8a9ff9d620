"""The best that this machine makes of 3D convolutions: the limit for a network made of them.

With it, what the benchmarks that compare a network with this limit have in common.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ConvPeaks", "Interleaved", "convolution_flops", "run_benchmark"]

LAYOUTS = (torch.channels_last_3d, torch.contiguous_format)


class Interleaved:
    """Times several pieces of work by turns, and keeps the best of each.

    Other load on the machine then meets all of them alike, and the best times are those that met least of it.
    """

    def __init__(self, clock: str) -> None:
        self._now = time.process_time if clock == "cpu" else time.perf_counter
        self.times: dict[str, list[float]] = defaultdict(list)

    def run(self, works: dict[str, Callable[[], object]], rounds: int) -> None:
        """Do all of it in turn, so many times."""
        for _ in range(rounds):
            for name, work in works.items():
                started = self._now()
                work()
                self.times[name].append(self._now() - started)

    def best(self, name: str) -> float:
        """Give the shortest time, in seconds."""
        return min(self.times[name])


@dataclass
class ConvPeaks:
    """Times of one 3x3x3 convolution a width, best layout and batch of two patches.

    Attributes
    ----------
    dtype : in which to compute
    backward : whether gradients for input and weights are part of it
    extents : (channels, side of the patch) of what to convolve
    """

    dtype: torch.dtype
    backward: bool
    extents: Iterable[tuple[int, int]]
    batch: int = 2

    def works(self, prefix: str) -> dict[str, Callable[[], object]]:
        """Give every convolution, by a name that begins with the prefix."""
        found: dict[str, Callable[[], object]] = {}
        for channels, side in self.extents:
            for layout in LAYOUTS:
                found[f"{prefix} {channels} {side} {layout}"] = self._work(channels, side, layout)
        return found

    def flops_per_second(self, timings: Interleaved, prefix: str) -> dict[int, float]:
        """Give, for each number of channels, the best of all layouts and sides."""
        best: dict[int, float] = defaultdict(float)
        for channels, side in self.extents:
            flops = 2 * 27 * channels**2 * side**3 * self.batch * (3 if self.backward else 1)
            for layout in LAYOUTS:
                seconds = timings.best(f"{prefix} {channels} {side} {layout}")
                best[channels] = max(best[channels], flops / seconds)
        return dict(best)

    def _work(self, channels: int, side: int, layout: torch.memory_format) -> Callable[[], object]:
        x = torch.rand(self.batch, channels, side, side, side, dtype=self.dtype).contiguous(
            memory_format=layout
        )
        weight = torch.rand(channels, channels, 3, 3, 3, dtype=self.dtype).contiguous(memory_format=layout)
        if not self.backward:
            return lambda: _inference(x, weight)
        x.requires_grad_()
        weight.requires_grad_()
        slope = torch.rand_like(x)
        return lambda: torch.autograd.grad(F.conv3d(x, weight, padding=1), (x, weight), slope)


def _inference(x: Tensor, weight: Tensor) -> Tensor:
    with torch.inference_mode():
        return F.conv3d(x, weight, padding=1)


def convolution_flops(network: nn.Module, x: Tensor, *, backward: bool) -> dict[int, float]:
    """Count operations of all convolutions of one pass over x, by the larger number of channels of each.

    Gradients take twice a pass, but for the first convolution, whose input needs none.
    """
    flops: dict[int, float] = defaultdict(float)

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            return
        voxels = inputs[0].numel() if isinstance(module, nn.ConvTranspose3d) else output.numel()
        voxels //= module.in_channels if isinstance(module, nn.ConvTranspose3d) else module.out_channels
        taps = module.weight[0, 0].numel()
        passes = 1 + backward * (1 + (module.in_channels > 1))
        pairs = module.in_channels * module.out_channels
        flops[max(module.in_channels, module.out_channels)] += 2 * passes * taps * pairs * voxels

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return dict(flops)


def run_benchmark(
    description: str,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    result: Path,
    *,
    side: int,
    rounds: int,
) -> None:
    """Read the options, measure, and write down what was found with the machine it was found on.

    Parameters
    ----------
    description : of the script; its first line is shown by --help
    measure : gets the options side, rounds, threads and clock
    result : file to write, unless --output names another
    side, rounds : defaults
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--side", type=int, default=side, help="of what is computed, in voxels")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: with --threads 1 only")
    parser.add_argument("--output", type=Path, default=result)
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu needs --threads 1: waiting threads spend CPU time too")
    torch.set_num_threads(options.threads)
    found = {**machine.describe(), **measure(options)}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps({key: found[key] for key in ("times_as_fast", "of_convolution_peak")}, indent=2))
