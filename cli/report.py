"""`bigdecon report`: what a result is like, on a page that anybody can open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bigdecon.errors import OptionError

if TYPE_CHECKING:
    from bigdecon.reporting.making import Report

__all__ = ["command"]


@click.command("report", short_help="Show what a result is like, and whether to trust it, on a page.")
@click.argument("output")
@click.option(
    "-o", "--output", "page", metavar="FILE", help="Where the page goes; default: NAME.report.html beside it."
)
@click.option(
    "--input", "image", metavar="IMAGE", help="The image it was made from, if it is not in its old place."
)
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict and all findings as JSON.")
def command(output: str, page: str | None, image: str | None, threads: int, as_json: bool) -> None:
    """Make the report of OUTPUT, the folder of a result: one HTML file, and the same as a PNG.

    It shows the image before and after, says whether the model explains the data to the noise and up to
    which detail the result is reproducible, and names what does not look right. A few boxes are measured,
    never the whole volume. bigdecon run makes it by itself at its end.

    \b
    Examples:
      bigdecon report volume.deconvolved.ome.zarr
      bigdecon report volume.deconvolved.ome.zarr -o for_anna.html --input /elsewhere/volume.ome.zarr
    """  # noqa: D301
    if threads < 1:
        raise OptionError(f"--threads is {threads}; it must be at least 1.")
    if page is not None and not page.lower().endswith((".html", ".htm")):
        raise OptionError(f"-o {page} is no HTML file by name; give a name that ends in .html.")
    from bigdecon.io.image_paths import check_image_path
    from bigdecon.io.output_folder import result_place
    from bigdecon.reporting.report_names import choose_place

    result = result_place(output)
    if isinstance(result, Path):
        choose_place(result, page)
    if image is not None:
        check_image_path(image)
    from bigdecon.reporting.making import make_report

    made = make_report(output, place=page, image=image, threads=threads)
    click.echo(as_json_text(made) if as_json else "\n".join(describe(made)))


def as_json_text(made: Report) -> str:
    """Give one JSON object."""
    findings = [{"channel": channel, **finding.as_json()} for channel, finding in made.findings]
    return json.dumps(
        {
            "report": str(made.page),
            "picture": str(made.picture),
            "verdict": [statement._asdict() for statement in made.statements],
            "findings": findings,
            "notes": list(made.notes),
        }
    )


def describe(made: Report) -> list[str]:
    """Give the lines of the text."""
    lines = [f"{one.question} {one.answer}. {one.because}".rstrip() for one in made.statements]
    lines += made.notes
    return [*lines, f"Report:  {made.page}", f"Picture: {made.picture}"]
