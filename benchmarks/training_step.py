"""Time a training step on a CPU with and without what makes it quick, side by side.

    python benchmarks/training_step.py             about two minutes on two cores
    python benchmarks/training_step.py --rounds 1

The step is that of the `fast` preset in 3D: one 64^3 patch, both passes, 16 channels, 17^3 PSF. Variants take
turns, so that other load on the machine meets all of them; only ratios are judged.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import machine
import numpy as np
import torch

from bigdecon import Volume, training_preset
from bigdecon.intensity import measure_intensity
from bigdecon.learning.heap import freed_memory_kept
from bigdecon.learning.patches import PatchPool
from bigdecon.learning.precision import has_fast_bfloat16
from bigdecon.learning.training import _Trainer
from bigdecon.optics.psf import psf_from_array

RESULT = Path(__file__).parent / "results" / "training_step.json"
STEPS = 6
VARIANTS = {
    "float32": (False, False),
    "float32, freed memory kept": (False, True),
    "bfloat16": (True, False),
    "bfloat16, freed memory kept": (True, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(options.rounds):
        for name, (half, keep) in VARIANTS.items():
            seconds[name].append(time_steps(half, keep))
            print(f"{name:30} {seconds[name][-1]:.3f} s a step", flush=True)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    result = {
        **machine.describe(),
        "threads": options.threads,
        "cpu_has_fast_bfloat16": has_fast_bfloat16(torch.device("cpu")),
        "speed_relative_to_float32": {n: round(medians["float32"] / s, 2) for n, s in medians.items()},
        "seconds_a_step": {name: [round(s, 3) for s in times] for name, times in seconds.items()},
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["speed_relative_to_float32"], indent=2))


def time_steps(half: bool, keep: bool) -> float:
    """Give the seconds of one step, the mean over a few after two that do not count."""
    config = replace(training_preset("fast", ndim=3, accelerator=False), mixed_precision=half)
    rng = np.random.default_rng(0)
    stacks = [Volume.from_array(rng.random((64, 128, 128), np.float32)).stack()]
    stats = measure_intensity(stacks)
    sides = np.linspace(-2, 2, 17) ** 2
    psf = np.exp(-(sides[:, None, None] / 2 + sides[:, None] + sides))
    trainer = _Trainer(config, psf_from_array(psf / psf.sum()), stats, torch.device("cpu"), None)
    pool = PatchPool(
        stacks,
        config.patch_shape,
        alignment=trainer.network.alignment,
        stats=stats,
        seed=0,
        held_out_fraction=config.held_out_fraction,
    )
    trainer.prepare(pool)
    batches = [pool.draw(step, config.batch, trainer.symmetries, trainer.margin) for step in range(2 + STEPS)]
    memory: AbstractContextManager[None] = freed_memory_kept() if keep else nullcontext()
    with memory:
        for batch in batches[:2]:
            trainer.learn(batch)
        started = time.monotonic()
        for batch in batches[2:]:
            trainer.learn(batch)
        return (time.monotonic() - started) / STEPS


if __name__ == "__main__":
    main()
