"""The tables of Papkov et al. 2023, measured with bigdecon: every row a method, on the same images.

    python benchmarks/tables.py                                  simulated 2D images, and 3D filaments
    python benchmarks/tables.py --images FOLDER --jobs 2         2D images of a folder, two trials at a time
    python benchmarks/tables.py --quick --store trials.jsonl     tries the script in a minute

On a GPU trainings have the paper's size, on a CPU a reduced one, and the results say so. A run that was
stopped goes on where it was. `evidence.py` makes docs/evidence.md of what is kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from trials import PAPER, Data, Settings, Trial, add_options, images, run_trials, settings_for, volumes

from bigdecon.config import LOSS_PRESETS

TUNED = ("richardson-lucy", "conjugate-gradient", "chambolle-pock", "wiener")


def trials_of(data: Data, settings: Settings, *, losses: bool, ssi: bool) -> Iterator[Trial]:
    """Give the methods of the tables for one image; the six losses and SSI only on request."""
    yield Trial(data, "input")
    yield Trial(data, "plain richardson-lucy")
    for method in TUNED:
        yield Trial(data, method)
    yield Trial(data, "siamese", settings=settings)
    if ssi:
        yield Trial(data, "ssi", settings=settings)
    for loss in LOSS_PRESETS if losses else ():
        yield Trial(data, "siamese", {"loss": loss}, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--only", help="methods, separated by commas")
    parser.add_argument("--without-losses", action="store_true", help="of trainings only bigdecon's own loss")
    options = parser.parse_args()
    settings = settings_for(options)
    # On a CPU some have to do for SSI and, in 2D, for the six losses: the tables say how many.
    full = settings.name == PAPER.name
    wanted = []
    for number, data in enumerate(volumes(options)):
        wanted += trials_of(data, settings, losses=True, ssi=full or number < 2)
    for number, data in enumerate(images(options)):
        some = full or number % 4 == 0
        wanted += trials_of(data, settings, losses=some, ssi=some)
    if options.without_losses:
        wanted = [t for t in wanted if "loss" not in t.options]
    if options.only:
        wanted = [t for t in wanted if t.method in options.only.split(",")]
    # What matters most first: all images by the default, then by the other losses.
    run_trials(sorted(wanted, key=lambda t: "loss" in t.options), options)


if __name__ == "__main__":
    main()
