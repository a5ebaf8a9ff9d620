"""Make a report and lay it beside its result: NAME.report.html and NAME.report.png, never inside the store.

run ends ──────────> report_of_run  : a failure is a warning, the run's result and exit code stay
bigdecon report OUT ─> make_report  : a failure is an error
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from bigdecon.diagnosis.findings import Finding
from bigdecon.distributed.cluster import Connection
from bigdecon.distributed.devices import computes_here
from bigdecon.distributed.progress import Listener, Message, stage
from bigdecon.distributed.scheduling import Call
from bigdecon.errors import BigdeconError, WriteError
from bigdecon.io.provenance import now
from bigdecon.reporting.content import Content, gather
from bigdecon.reporting.facts import describe_machine
from bigdecon.reporting.measuring import Runner, on_workers, run_here
from bigdecon.reporting.page import render_page
from bigdecon.reporting.png import render_png
from bigdecon.reporting.report_names import ReportPlace, choose_place
from bigdecon.reporting.subject import Subject, find_subject
from bigdecon.reporting.verdict import Statement
from bigdecon.running.planning import RunPlan
from bigdecon.running.regions import able_workers
from bigdecon.storage import places
from bigdecon.storage.places import Place, PlaceLike

__all__ = ["Report", "make_report", "report_of_run"]


@dataclass(frozen=True)
class Report:
    """A report that was made.

    Attributes
    ----------
    page, picture : where they lie
    statements : the verdict, in plain words
    findings : all that was found, each with the name of the channel it is about
    notes : what could not be shown, and why
    """

    page: Place
    picture: Place
    statements: tuple[Statement, ...]
    findings: tuple[tuple[str, Finding], ...]
    notes: tuple[str, ...]


def make_report(
    output: PlaceLike, *, place: PlaceLike | None = None, image: str | None = None, threads: int = 1
) -> Report:
    """Make the report of a result that is there, in this process.

    Parameters
    ----------
    output : folder of the result, finished or not
    place : where the page goes, ending in .html; beside the result by default. The picture lies beside it.
        Only reports of bigdecon are replaced, and by default only that of this result.
    image : the input, where it is no longer in its old place
    threads : of the methods, on a CPU

    Raises
    ------
    OutputError, VolumeError
        if there is no result of bigdecon, or `image` is no image that fits
    WriteError
        if the report cannot be written, or something else lies in its place
    """
    device = _device_here()
    subject = find_subject(output, image_path=image, device=device, threads=threads)
    chosen = choose_place(subject.output, place)
    return _write(gather(subject, run_here), chosen)


def report_of_run(
    plan: RunPlan,
    listener: Listener,
    connection: Connection | None = None,
    *,
    seconds: float | None = None,
) -> Report | None:
    """Make the report of a run that has just ended, on its workers; a failure is only told.

    Parameters
    ----------
    plan : of the run
    listener : is told what happens
    connection : the workers; None works in this process
    seconds : time that the run took

    Returns
    -------
    None if it could not be made
    """
    try:
        with stage("report", 0, listener):
            subject, run = _subject_of(plan, connection)
            machine = _machine(run)
            content = gather(subject, run, seconds=seconds, machine=machine)
            chosen = choose_place(plan.output)
            if chosen.note:
                listener(Message(chosen.note))
            return _write(content, chosen)
    except Exception as error:  # whatever it is: the result is there, and that is what counts
        text = str(error) if isinstance(error, BigdeconError) else f"{type(error).__name__}: {error}"
        sentence = " ".join(text.split()).rstrip(".")
        listener(
            Message(
                f"the report could not be made ({sentence}); the result is complete without it. "
                f"bigdecon report {plan.output} tries again.",
                "warning",
            )
        )
        return None


def _subject_of(plan: RunPlan, connection: Connection | None) -> tuple[Subject, Runner]:
    run: Runner = run_here
    if connection is None:
        device, threads = _device_here(plan.device), 1
    else:
        device, threads = plan.device, connection.threads_per_worker
        run = on_workers(connection, able_workers(plan, connection))
    known = {"volume": plan.volume, "psfs": plan.psfs}
    return find_subject(plan.output, device=device, threads=threads, **known), run  # type: ignore[arg-type]


def _machine(run: Runner) -> str:
    with suppress(Exception):
        return str(run([Call(describe_machine)], "report-machine")[0])
    return ""


def _device_here(wanted: str = "cuda") -> str:
    """Choose where this process computes: on a GPU if the run did and there is one here."""
    return wanted if computes_here(wanted) else "cpu"


def _write(content: Content, chosen: ReportPlace) -> Report:
    page, picture, note = chosen
    for place, data in ((page, render_page(content, made=now()).encode()), (picture, render_png(content))):
        try:
            places.make_folder(place.parent)
            places.write(place, data)
        except OSError as error:
            raise WriteError(f"the report {place} cannot be written ({error.strerror or error}).") from error
    notes = (*content.notes, note) if note else content.notes
    return Report(page, picture, content.verdict.statements, content.verdict.findings, notes)
