"""What each idea brings: the same trainings and the same Richardson-Lucy with one idea switched off, in dB.

    python benchmarks/ablation.py [--jobs 2] [--quick]

On 3D filaments (on a CPU two volumes, one for trainings). Beside it the two ways to join network and
Richardson-Lucy: sharpening the network's blurred-again result (part of every Siamese trial), and
Richardson-Lucy inside the network. The trials are kept with those of tables.py; `evidence.py` makes
the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from trials import CHANGES, Data, Settings, Trial, add_options, run_trials, settings_for, volumes

OFF_CENTRE = "PSF half a voxel off its centre"


def trials_of(data: Data, settings: Settings) -> Iterator[Trial]:
    """Give the trials of one volume, those with everything on among them."""
    yield Trial(data, "richardson-lucy")
    for off in ({"background": 0.0}, {"sieve": 0.0}, {"accelerate": False}, {"changes": (OFF_CENTRE,)}):
        yield Trial(data, "richardson-lucy", off)
    yield Trial(data, "siamese", settings=settings)


def trainings_of(data: Data, settings: Settings) -> Iterator[Trial]:
    """Give the trainings of one volume, each with one idea off, and the one with Richardson-Lucy inside."""
    for change in (*CHANGES, OFF_CENTRE):
        yield Trial(data, "siamese", {"changes": (change,)}, settings)
    # Fifteen iterations in every step are slow: a quarter of the steps has to do.
    yield Trial(data, "unrolled", {"steps": settings.steps_3d // 4}, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    options = parser.parse_args()
    settings = settings_for(options)
    wanted = [trial for data in volumes(options)[:2] for trial in trials_of(data, settings)]
    for data in volumes(options)[: 1 if options.device == "cpu" else None]:
        wanted += trainings_of(data, settings)
    run_trials(wanted, options)


if __name__ == "__main__":
    main()
