"""Time a training step on a CPU against the public code's way, and against the machine's best convolutions.

    python benchmarks/training_against_reference.py                            two threads
    python benchmarks/training_against_reference.py --threads 1 --clock cpu    on a machine that others use

The step is that of the `paper` preset, but smaller: 16 channels, one patch of 48^3 voxels, a PSF of 17^3,
both passes, loss noise2same. All variants take turns in one process. The loss and its gradient, for the
same weights, patches and masks, must agree before anything is timed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conv_peak import ConvPeaks, Interleaved, convolution_flops, run_benchmark
from reference_step import ReferenceStep
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bigdecon import Volume, training_preset
from bigdecon.intensity import measure_intensity
from bigdecon.learning.heap import freed_memory_kept
from bigdecon.learning.masking import replace_masked, stratified_mask
from bigdecon.learning.patches import PatchBatch, PatchPool
from bigdecon.learning.precision import has_fast_bfloat16
from bigdecon.learning.training import _Step, _Trainer
from bigdecon.optics.psf import psf_from_array

RESULT = Path(__file__).parent / "results" / "training_against_reference.json"
CHANNELS, SIDE, PSF_SIDE = 16, 48, 17
EXTENTS = ((16, 48), (16, 32), (32, 24), (32, 32), (64, 12), (64, 24))
TOLERANCE = 1e-4
PARTS = {
    "convolutions": ("convolution",),
    "normalisation": ("batch_norm",),
    "rectifiers": ("threshold_backward", "clamp_min"),
    "sums and copies": ("aten::add", "copy", "cat", "fill", "zero"),
    "1x1 convolutions": ("aten::mm", "addmm"),
    "PSF (FFT)": ("fft", "_ByFFT"),
    "optimiser": ("Optimizer", "addcdiv", "lerp", "addcmul", "sqrt", "foreach", "fused"),
}


def main() -> None:
    run_benchmark(__doc__, measure, RESULT, side=SIDE, rounds=8)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    load = os.getloadavg()[0]
    extents = sorted({(channels, min(side, options.side)) for channels, side in EXTENTS})
    kinds = {"float32": torch.float32}
    if has_fast_bfloat16(torch.device("cpu")):
        kinds["bfloat16"] = torch.bfloat16
    ours = {name: Ours(options.side, name == "bfloat16") for name in kinds}
    reference = ReferenceStep(CHANNELS, torch.from_numpy(psf()))
    agreement = compare(ours["float32"], reference)
    if max(agreement.values()) > TOLERANCE:
        raise SystemExit(f"the steps differ: {agreement}; nothing was timed")
    timings = Interleaved(options.clock)
    steps = {name: step.learn for name, step in ours.items()}
    plainly = {"reference": ours["float32"].in_the_other(reference)}
    peaks = {name: ConvPeaks(kind, True, extents) for name, kind in kinds.items()}
    convolutions = {k: v for name, peak in peaks.items() for k, v in peak.works(name).items()}
    for number in range(options.rounds + 1):
        with freed_memory_kept():
            # Once for every size of memory that is asked for, and not counted.
            Interleaved(options.clock).run(steps, 1)
            (timings if number else Interleaved(options.clock)).run(steps | convolutions, 1)
        # The public code gives its memory back to the system, as torch does by itself.
        (timings if number else Interleaved(options.clock)).run(plainly, 1)
    timings.run({f"data {name}": step.draw for name, step in ours.items()}, options.rounds)
    steps |= plainly
    flops = ours["float32"].flops()
    rates = {name: peak.flops_per_second(timings, name) for name, peak in peaks.items()}
    seconds = {name: timings.best(name) for name in steps}
    return {
        "threads": options.threads,
        "clock": options.clock,
        "load_at_start": round(load, 1),
        "step": f"{CHANNELS} channels, one patch of {options.side}^3, PSF of {PSF_SIDE}^3, both passes",
        "largest_difference": agreement,
        "seconds_a_step": {name: round(s, 4) for name, s in seconds.items()},
        "times_as_fast": {name: round(seconds["reference"] / seconds[name], 2) for name in ours},
        "of_convolution_peak": {
            name: round(sum(n / rates[name][c] for c, n in flops.items()) / seconds[name], 3) for name in ours
        },
        "convolution_peak_GFLOPs": {
            name: {str(c): round(r / 1e9, 1) for c, r in rate.items()} for name, rate in rates.items()
        },
        "convolution_GFLOP_a_step": round(sum(flops.values()) / 1e9, 1),
        "shares": {name: shares(step) for name, step in ours.items()},
        "data_preparation": {name: round(timings.best(f"data {name}") / seconds[name], 4) for name in ours},
    }


def shares(step: Ours) -> dict[str, float]:
    """Give what part of a step its parts take, by torch's profiler."""
    with freed_memory_kept(), profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(3):
            step.learn()
    seconds = dict.fromkeys([*PARTS, "the rest"], 0.0)
    for event in found.key_averages():
        kind = next((part for part, words in PARTS.items() if any(w in event.key for w in words)), "the rest")
        seconds[kind] += event.self_cpu_time_total
    return {kind: round(part / sum(seconds.values()), 3) for kind, part in seconds.items()}


def psf() -> np.ndarray:
    sides = np.linspace(-2, 2, PSF_SIDE) ** 2
    blob = np.exp(-(sides[:, None, None] / 2 + sides[:, None] + sides))
    return (blob / blob.sum()).astype(np.float32)


class Ours:
    """The training of `bigdecon` with the paper's settings, at the size of this benchmark."""

    def __init__(self, side: int, half: bool) -> None:
        paper = training_preset("paper", ndim=3, accelerator=False)
        self.config = replace(
            paper,
            network=replace(paper.network, channels=CHANNELS),
            patch_shape=(side,) * 3,
            batch=1,
            mixed_precision=half,
            held_out_fraction=0.0,
        )
        rng = np.random.default_rng(0)
        stacks = [Volume.from_array(rng.random((64, 128, 128), np.float32)).stack()]
        stats = measure_intensity(stacks)
        self.trainer = _Trainer(self.config, psf_from_array(psf()), stats, torch.device("cpu"), None)
        self.pool = PatchPool(
            stacks,
            self.config.patch_shape,
            alignment=self.trainer.network.alignment,
            stats=stats,
            seed=0,
            held_out_fraction=0.0,
        )
        self.trainer.prepare(self.pool)
        self.batch = self.draw()

    def draw(self) -> PatchBatch:
        """Prepare the data of a step."""
        return self.pool.draw(0, self.config.batch, self.trainer.symmetries, self.trainer.margin)

    def learn(self) -> Tensor:
        """Do one step."""
        return self.trainer.learn(self.batch)

    def in_the_other(self, reference: ReferenceStep) -> Callable[[], Tensor]:
        """Give a step of the reference, with the same patches and a mask of the same kind."""
        x = torch.from_numpy(self.batch.x)
        mask = stratified_mask(1, x.shape[2:], self.config.mask_fraction, torch.Generator().manual_seed(0))
        return lambda: reference.learn(x, mask)

    def flops(self) -> dict[int, float]:
        """Count what the convolutions of a step compute, by channels."""
        shape = (2 * self.config.batch, 1, *self.config.patch_shape)
        return convolution_flops(self.trainer.network, torch.zeros(shape), backward=True)


def compare(ours: Ours, reference: ReferenceStep) -> dict[str, float]:
    """Give the largest relative difference of loss and gradients between both ways, from the same weights."""
    trainer = ours.trainer
    reference.network.load_state_dict(trainer.network.state_dict(), strict=False)
    trainer.network.train()
    reference.network.train()
    x = torch.from_numpy(ours.batch.x)
    generator = torch.Generator().manual_seed(0)
    mask = stratified_mask(1, x.shape[2:], ours.config.mask_fraction, generator)
    masked = replace_masked(x, mask, ours.config.mask_noise, generator)
    step = _Step(x, mask, torch.ones_like(mask))
    loss = trainer.gradient.compute(
        trainer._apply,
        torch.cat([masked, x]),
        2,
        lambda outputs: trainer._losses(step, outputs).total(ours.config.loss),
    )
    wanted = reference.loss(x, masked, mask)
    reference.network.zero_grad()
    wanted.backward()
    slopes = dict(trainer.network.named_parameters())
    norm = sum(float((p.grad**2).sum()) for p in reference.network.parameters()) ** 0.5
    worst = max(
        float((slopes[name].grad - p.grad).abs().max()) for name, p in reference.network.named_parameters()
    )
    return {"loss": abs(float(loss) / float(wanted.detach()) - 1), "gradient": worst / norm}


if __name__ == "__main__":
    main()
