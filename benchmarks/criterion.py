"""Does the error at hidden voxels rank settings as the truth would? Over a grid that was fixed beforehand.

    python benchmarks/criterion.py [--images FOLDER] [--jobs 2] [--quick]

Richardson-Lucy over background, sieve and iterations (on a CPU on two volumes and every fourth 2D image),
and trainings over losses and steps on a volume. The trials are kept with those of tables.py; `evidence.py`
makes rank correlations of them, failures included.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from trials import Data, Settings, Trial, add_options, images, run_trials, settings_for, volumes

LOSSES = ("noise2self", "noise2same", "noise2same-d")
PARTS_OF_STEPS = (3, 1)


def trials_of(data: Data) -> Iterator[Trial]:
    """Give the grid of one image."""
    yield Trial(data, "grid of richardson-lucy")


def trainings_of(data: Data, settings: Settings) -> Iterator[Trial]:
    """Give trainings of one volume: three losses, each a third and all of the steps."""
    for part in PARTS_OF_STEPS:
        for loss in LOSSES:
            steps = {"steps": settings.steps_3d // part} if part > 1 else {}
            yield Trial(data, "siamese", {"loss": loss, **steps}, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    options = parser.parse_args()
    few = options.device == "cpu"
    grids = (*volumes(options)[: 2 if few else None], *images(options)[:: 4 if few else 1])
    wanted = [trial for data in grids for trial in trials_of(data)]
    for data in volumes(options)[:1]:
        wanted += trainings_of(data, settings_for(options))
    run_trials(wanted, options)


if __name__ == "__main__":
    main()
