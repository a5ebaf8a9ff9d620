"""The plan of a run in words: what `bigdecon run` prints first."""

from __future__ import annotations

from dask.utils import format_bytes

from bigdecon.planning import RunPlan

__all__ = ["describe_plan"]

STATES = {
    "new": "new",
    "continue": "begun earlier; it will be continued",
    "finished": "finished by an earlier run",
}


def describe_plan(plan: RunPlan) -> list[tuple[str, str]]:
    """Give the plan as pairs of a heading and a short text; a heading that is empty continues the last."""
    return [*_describe_input(plan), *_describe_work(plan)]


def _describe_input(plan: RunPlan) -> list[tuple[str, str]]:
    volume = plan.volume
    shape = " x ".join(str(n) for n in volume.shape)
    lines = [("input", f"{volume.location or volume.name}"), ("", f"{volume.axes} {shape}, {volume.dtype}")]
    size = volume.voxel_size_um
    text = "unknown" if size is None else " x ".join(f"{s:g}" for s in size) + " um"
    lines.append(("voxel size", text))
    for psf in dict.fromkeys(plan.psfs):
        lines.append(("PSF", f"{psf.name}, {' x '.join(str(n) for n in psf.array.shape)}"))
        lines += [("", sentence) for sentence in psf.corrections]
    for index, (channel, stats) in enumerate(zip(volume.channels, plan.stats, strict=True)):
        label = f"background {channel.name}".strip()
        part = "" if stats.sampled == 1 else f" (of {stats.sampled:.1%} of the voxels)"
        brightness = f"mean {stats.mean:.4g}, maximum {stats.maximum:.4g}"
        lines.append((label, f"{stats.background:.4g}, {brightness}{part}"))
        if plan.config.method == "richardson-lucy":
            used = plan.background_in_model(index)
            hint = "" if used else "; --background gives another"
            lines.append(("", f"{used:.4g} is used as background by richardson-lucy{hint}"))
    return lines


def _describe_work(plan: RunPlan) -> list[tuple[str, str]]:
    grid = plan.grid
    stacks = plan.volume.n_timepoints * plan.volume.n_channels
    block = " x ".join(str(n) for n in grid.largest_block)
    halo = " x ".join(str(n) for n in grid.halo)
    tile = f", tiles of {plan.tile}" if plan.tile else ""
    return [
        ("method", _describe_method(plan)),
        ("device", plan.device),
        ("blocks", f"{stacks * len(grid)} in {stacks * len(plan.regions)} regions, engine {plan.engine}"),
        ("", f"up to {block} with a halo of {halo}: {grid.overhead:.2f} voxels computed for one written"),
        (
            "memory",
            f"about {format_bytes(plan.bytes_per_worker)} for a block{tile}, besides the program",
        ),
        ("output", f"{plan.output} ({_state(plan)})"),
    ]


def _state(plan: RunPlan) -> str:
    if plan.state == "new" and plan.output.exists() and any(plan.output.iterdir()):
        return "replaces an earlier result"
    return STATES[plan.state]


def _describe_method(plan: RunPlan) -> str:
    method, training = plan.config.method, plan.training
    if plan.models:
        return f"{method}, model {plan.config.model}"
    if training:
        patches = "1 patch" if training.batch == 1 else f"{training.batch} patches"
        size = f"{training.network.channels} channels"
        return f"{method}, {size}, {training.steps} steps of {patches}"
    return f"{method}, {plan.config.iterations} iterations"
