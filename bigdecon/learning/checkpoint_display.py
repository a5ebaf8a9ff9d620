"""How a trained network looks in a notebook: its training curve, and a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigdecon.notebook_html import card, curve_picture

if TYPE_CHECKING:
    from bigdecon.learning.checkpoint import Checkpoint

__all__ = ["checkpoint_html"]


def checkpoint_html(checkpoint: Checkpoint) -> str:
    """Describe a trained network for a notebook."""
    curve, shape = checkpoint.curve, checkpoint.config.network
    size = checkpoint.voxel_size_um
    weights = sum(array.size for array in checkpoint.weights.values())
    rows = [
        ("method", checkpoint.method),
        ("network", f"{shape.ndim}D, {shape.channels} channels, {weights:,} weights"),
        (
            "trained",
            f"{curve[-1].step if curve else 0} steps in {checkpoint.seconds:.0f} s on {checkpoint.device}",
        ),
        ("ended by", checkpoint.stopped_by),
        ("voxel size", "unknown" if size is None else " × ".join(f"{s:g}" for s in size) + " µm"),
        ("PSF", " × ".join(map(str, checkpoint.psf.shape))),
        ("sha256", checkpoint.sha256[:12]),
    ]
    if curve:
        error = next((p.held_out_error for p in reversed(curve) if p.held_out_error is not None), None)
        held_out = "" if error is None else f", held-out error {error:.4g}"
        rows.insert(4, ("at the end", f"loss {curve[-1].loss:.4g}{held_out}"))
    columns = [p.step for p in curve], [p.loss for p in curve], [p.held_out_error for p in curve]
    return card("Trained network", rows, curve_picture(*columns))
