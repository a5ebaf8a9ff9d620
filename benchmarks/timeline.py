"""Draw where the time of one training step goes, in order, by torch's profiler.

    python benchmarks/timeline.py            a patch of 48^3, as in training_against_reference.py
    python benchmarks/timeline.py --quick    a patch of 16^3

The upper bar shows the stages of the step, the lower one what the processor did, by kinds of operations.
Gaps in the lower one are Python and what the profiler itself takes. Of some steps, that of median length
is drawn.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # as in the workers of `bigdecon run`, before torch is there
import machine
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from training_against_reference import CHANNELS, PARTS, PSF_SIDE, SIDE, Ours

from bigdecon.learning.heap import freed_memory_kept
from bigdecon.learning.precision import has_fast_bfloat16

HERE = Path(__file__).parent
RESULT = HERE / "results" / "timeline.json"
PLOT = HERE.parent / "docs" / "training_timeline.png"
STEPS = 5
STAGES = ("data", "masks", "forward", "PSF and loss", "backward", "optimiser")
COLOURS = {
    "convolutions": "#0072B2",
    "normalisation": "#009E73",
    "rectifiers": "#56B4E9",
    "sums and copies": "#999999",
    "1x1 convolutions": "#D55E00",
    "PSF (FFT)": "#CC79A7",
}
"""Of operations; Okabe and Ito."""

Span = tuple[str, float, float]
"""A name, begin and end in milliseconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small patch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--plot", type=Path, default=PLOT)
    options = parser.parse_args()
    load, side = os.getloadavg()[0], 16 if options.quick else SIDE
    torch.set_num_threads(options.threads)
    half = has_fast_bfloat16(torch.device("cpu"))
    found = sorted(profiled(side, half), key=lambda one: one["step_ms"])[STEPS // 2]
    draw(options.plot, found)
    result = {
        **machine.describe(),
        "load_at_start": round(load, 1),
        "threads": options.threads,
        "step": f"{CHANNELS} channels, one patch of {side}^3, PSF of {PSF_SIDE}^3, both passes",
        "precision": "bfloat16" if half else "float32",
        "shares": shares(found["stages"], found["step_ms"]),
        **found,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result) + "\n")
    print(json.dumps(result["shares"]))


def profiled(side: int, half: bool) -> list[dict[str, Any]]:
    """Profile some steps, each with its data."""
    ours = Ours(side, half)
    name_stages(ours)
    with freed_memory_kept():
        for _ in range(3):
            ours.learn()
        found = []
        for _ in range(STEPS):
            with profile(activities=[ProfilerActivity.CPU]) as one:
                ours.batch = ours.draw()
                ours.learn()
            found.append(spans(one))
    return found


def name_stages(ours: Ours) -> None:
    """Have the parts of a step appear in the profile."""
    for owner, name, stage in (
        (ours, "draw", "data"),
        (ours.trainer, "_to_device", "data"),
        (ours.trainer, "_apply", "forward"),
        (ours.trainer, "_losses", "PSF and loss"),
    ):
        setattr(owner, name, named(getattr(owner, name), stage))


def named(function: Any, stage: str) -> Any:
    """Give a function whose calls appear in the profile."""

    def call(*arguments: Any) -> Any:
        with record_function(f"stage {stage}"):
            return function(*arguments)

    return call


def spans(found: Any) -> dict[str, Any]:
    """Read stages and operations off a profile, in milliseconds since its begin."""
    events = sorted(found.events(), key=lambda event: event.time_range.start)
    zero = events[0].time_range.start
    end = max(event.time_range.end for event in events)

    def span(name: str, event: Any) -> Span:
        return name, (event.time_range.start - zero) / 1000, (event.time_range.end - zero) / 1000

    stages = [span(e.name[6:], e) for e in events if e.name.startswith("stage ")]
    (optimiser,) = (span("optimiser", e) for e in events if e.name.startswith("Optimizer.step"))
    ends = {name: stop for name, _, stop in stages}
    forward = min(begin for name, begin, _ in stages if name == "forward")
    stages += [("masks", ends["data"], forward), ("backward", ends["PSF and loss"], optimiser[1]), optimiser]
    stages.sort(key=lambda stage: stage[1])
    operations: list[Span] = []
    for event in events:
        kind = next((part for part, words in PARTS.items() if any(w in event.name for w in words)), None)
        if kind is None or kind == "optimiser" or event.name.startswith("stage "):
            continue
        new = span(kind, event)
        if operations and new[2] <= operations[-1][2]:
            continue  # within the one before
        if operations and operations[-1][0] == kind and new[1] - operations[-1][2] < 0.2:
            operations[-1] = (kind, operations[-1][1], new[2])
        else:
            operations.append(new)
    return {
        "step_ms": round((end - zero) / 1000, 2),
        "stages": [(name, round(a, 2), round(b, 2)) for name, a, b in stages],
        "operations": [(name, round(a, 2), round(b, 2)) for name, a, b in operations],
    }


def shares(stages: list[Span], whole: float) -> dict[str, float]:
    """Give what part of the step each stage takes."""
    found = dict.fromkeys(STAGES, 0.0)
    for name, begin, end in stages:
        found[name] += (end - begin) / whole
    return {name: round(part, 3) for name, part in found.items()}


def draw(path: Path, found: dict[str, Any]) -> None:
    """Draw two bars over time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    figure, panel = plt.subplots(figsize=(9, 2.9), layout="constrained")
    for name, begin, end in found["operations"]:
        panel.broken_barh([(begin, end - begin)], (-0.36, 0.72), color=COLOURS[name], linewidth=0)
    for name, begin, end in found["stages"]:
        grey = "#D9D9D9" if STAGES.index(name) % 2 else "#F2F2F2"
        panel.broken_barh([(begin, end - begin)], (0.64, 0.72), facecolor=grey, edgecolor="k", linewidth=0.6)
        # What is too narrow for its name stands in the table.
        if end - begin > 0.06 * found["step_ms"]:
            words = name.replace(" and ", "\nand ")
            panel.text((begin + end) / 2, 1, words, ha="center", va="center", fontsize=9)
    panel.set_yticks([0, 1], ["operations", "stages"])
    panel.set(xlabel="time of one training step, ms", xlim=(0, found["step_ms"]), ylim=(-0.5, 1.5))
    panel.spines[["top", "right"]].set_visible(False)
    kinds = [kind for kind in COLOURS if any(kind == name for name, _, _ in found["operations"])]
    handles = [Patch(color=COLOURS[kind], label=kind) for kind in kinds]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
