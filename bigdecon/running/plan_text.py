"""The plan of a run in words: what `bigdecon run` prints first."""

from __future__ import annotations

from collections.abc import Sequence

from dask.utils import format_bytes

from bigdecon.addresses import shown_url
from bigdecon.deconvolution.tuning import Tuned
from bigdecon.io.output_folder import is_taken
from bigdecon.notebook_html import card
from bigdecon.running.classical_settings import how_chosen, settings_in_words
from bigdecon.running.planning import RunPlan
from bigdecon.volume_display import thumbnail

__all__ = ["chosen_settings", "describe_blocks", "describe_essentials", "describe_plan", "plan_html"]

SAMPLING_NOTE = ("undersampling", "note")
"""Told before a run, as it cannot be mended after it; other notes stay in the record."""
STATES = {
    "new": "new",
    "continue": "begun earlier; it will be continued",
    "finished": "finished by an earlier run",
}


def describe_plan(plan: RunPlan) -> list[tuple[str, str]]:
    """Give the plan as pairs of a heading and a short text; a heading that is empty continues the last."""
    return [*describe_essentials(plan), *describe_blocks(plan)]


def describe_essentials(plan: RunPlan) -> list[tuple[str, str]]:
    """Give what everybody needs to know: the input as it was understood, the method, and the output."""
    return [*_describe_input(plan), *_describe_work(plan)]


def plan_html(plan: RunPlan) -> str:
    """Describe the plan for a notebook."""
    warnings = " ".join(f"Warning: {sentence}" for sentence in plan.warnings)
    return card("Plan of a run", describe_plan(plan), thumbnail(plan.volume), warnings)


def _describe_input(plan: RunPlan) -> list[tuple[str, str]]:
    volume = plan.volume
    shape = " x ".join(str(n) for n in volume.shape)
    lines = [
        ("input", shown_url(volume.location or volume.name)),
        ("", f"{volume.axes} {shape}, {volume.dtype}"),
    ]
    size = volume.voxel_size_um
    text = "unknown" if size is None else " x ".join(f"{s:g}" for s in size) + " µm"
    lines.append(("voxel size", text))
    notes = dict.fromkeys(f.sentence for f in plan.findings if (f.name, f.severity) == SAMPLING_NOTE)
    lines += [("note", sentence) for sentence in notes]
    for psf in dict.fromkeys(plan.psfs):
        lines.append(("PSF", f"{psf.name}, {' x '.join(str(n) for n in psf.array.shape)}"))
        lines += [("", sentence) for sentence in psf.corrections]
    for channel, stats in zip(volume.channels, plan.stats, strict=True):
        label = f"background {channel.name}".strip()
        part = _part_looked_at(stats.sampled)
        brightness = f"mean {_figure(stats.mean)}, maximum {_figure(stats.maximum)}"
        lines.append((label, f"{_figure(stats.background)}, {brightness}{part}"))
    return lines


def _figure(value: float) -> str:
    """Write a grey value as one reads it at the microscope, never as 2.198e+04."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def _part_looked_at(part: float) -> str:
    if part == 0:
        return " (assumed)"
    if part < 0.001:
        return " (of less than 0.1% of the voxels)"
    return "" if part == 1 else f" (of {part:.1%} of the voxels)"


def _describe_work(plan: RunPlan) -> list[tuple[str, str]]:
    return [
        *_describe_method(plan),
        ("device", plan.device),
        *_describe_mask(plan),
        ("output", f"{plan.output} ({_state(plan)})"),
    ]


def describe_blocks(plan: RunPlan) -> list[tuple[str, str]]:
    """Say how the image is divided, which changes nothing in the result: blocks, their margins, memory."""
    grid = plan.grid
    stacks = plan.volume.n_timepoints * plan.volume.n_channels
    block = " x ".join(str(n) for n in grid.largest_block)
    count = stacks * len(grid)
    if len(grid) == 1:  # a margin is context from neighbouring blocks, and here are none
        size = (
            f"{block} voxels: each whole stack in one piece" if count > 1 else f"{block} voxels, all at once"
        )
    else:
        halo = " x ".join(str(n) for n in grid.halo)
        size = (
            f"up to {block} voxels with a margin (halo) of {halo}: "
            f"{grid.overhead:.2f} voxels computed for one written"
        )
    tile = f" (tiles of {plan.tile})" if plan.tile else ""
    regions = stacks * len(plan.regions)
    return [
        ("blocks", f"{count} in {regions} {'region' if regions == 1 else 'regions'}, engine {plan.engine}"),
        ("", size),
        *_describe_raised(plan),
        (
            "memory",
            f"about {format_bytes(plan.bytes_per_worker)} for a block{tile}, besides the program",
        ),
    ]


def _describe_raised(plan: RunPlan) -> list[tuple[str, str]]:
    """Say so where blocks had to be larger than was asked for."""
    asked, grid = plan.config.tiling.block, plan.grid
    if asked == "auto":
        kept = f"{plan.block} wide, as --block auto chose when the run began"
        return [("block", plan.block_choice.sentence if plan.block_choice else kept)]
    if asked is None:
        return []
    axes = zip(grid.cuts, grid.halo, strict=True)
    cores = [cuts[1] - cuts[0] for cuts, halo in axes if len(cuts) > 2 or halo > asked]
    if max(cores, default=0) <= asked:
        return []
    halo = max(grid.halo)
    why = f"is less than the halo of {halo}" if asked < halo else "does not suit the method"
    return [("", f"--block {asked} {why}: a block's core is up to {max(cores)} wide")]


def _describe_mask(plan: RunPlan) -> list[tuple[str, str]]:
    lines = []
    if plan.mask is not None:
        extent = " x ".join(str(n) for n in plan.mask.stack.shape)
        lines.append(("mask", f"{plan.config.mask}, {extent}; the result is 0 outside"))
    if plan.config.skip_dim is not None:
        lines.append(
            ("", f"blocks whose brightest voxel is below {plan.config.skip_dim:g} are left as they are")
        )
    return lines


def _state(plan: RunPlan) -> str:
    if plan.state == "new" and is_taken(plan.output):
        return "replaces an earlier result"
    return STATES[plan.state]


def _describe_method(plan: RunPlan) -> list[tuple[str, str]]:
    method, training = plan.config.method, plan.training
    refine = plan.config.refine
    after = f", then {refine} accelerated iterations of richardson-lucy" if refine is not None else ""
    if plan.models:
        return [("method", f"{method}, model {plan.config.model}{after}")]
    if training:
        patches = "1 patch" if training.batch == 1 else f"{training.batch} patches"
        steps = f"at most {training.steps} training steps on {patches} of the image each"
        return [("method", f"{method}, a network {training.network.channels} features wide, {steps}{after}")]
    lines = []
    for channel, tuned in zip(plan.volume.channels, plan.tuned, strict=True):
        lines.append(
            (f"method {channel.name}".strip(), f"{method}, {settings_in_words(method, tuned.settings)}")
        )
        if tuned.trials:
            lines.append(("", how_chosen(tuned)))
            lines.append(("", f"the same by hand: {_flags(method, tuned)}"))
        curve = tuned.curve()
        if len(curve) > 1:
            lines.append(("", f"error there by iterations (* least): {_describe_curve(curve)}"))
    return lines


def chosen_settings(plan: RunPlan) -> tuple[tuple[str, dict[str, float | bool]], ...]:
    """Give what was chosen from the image, to ask for the same by hand.

    Returns
    -------
    for every channel its name, and values by the names of flags; nothing where nothing was chosen
    """
    pairs = zip(plan.volume.channels, plan.tuned, strict=bool(plan.tuned))
    method = plan.config.method
    return tuple((channel.name, _by_hand(method, tuned)) for channel, tuned in pairs if tuned.trials)


def _by_hand(method: str, tuned: Tuned) -> dict[str, float | bool]:
    settings = tuned.settings
    if method in ("wiener", "conjugate-gradient"):
        return {"regularization": settings.regularization}
    if method == "chambolle-pock":
        numbers = {"iterations": settings.iterations, "background": settings.background}
        return {**numbers, "regularization": settings.regularization}
    if method != "richardson-lucy":  # of a network that is refined
        return {"background": settings.background}
    values: dict[str, float | bool] = {"iterations": settings.iterations, "background": settings.background}
    return {**values, "sieve": settings.sieve, "accelerate": settings.accelerate}


def _flags(method: str, tuned: Tuned) -> str:
    """Give the flags that ask for the chosen numbers."""
    values = _by_hand(method, tuned)
    numbers = [f"--{name} {value:.6g}" for name, value in values.items() if not isinstance(value, bool)]
    return " ".join([*numbers, *(f"--{name}" for name, value in values.items() if value is True)])


def _describe_curve(curve: Sequence[tuple[int, float]]) -> str:
    """Give the root mean square errors, the least one marked by a star."""
    least = min(error for _, error in curve)
    return ", ".join(f"{k}: {error**0.5:.5g}{'*' * (error == least)}" for k, error in curve)
