"""Settings of a command in a TOML file: read for --config, written for --save-config.

The keys are the long flags without their dashes, and `volume` is the image. A flag that was typed wins over
the file; paths in the file are relative to the file.
"""

from __future__ import annotations

import difflib
import os
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import click

from bigdecon.addresses import shown_url
from bigdecon.errors import OptionError, OutputError

__all__ = [
    "RecordedCommand",
    "check_place",
    "command_line",
    "config_options",
    "given_as",
    "save_settings",
    "typed",
    "was_given",
]

VOLUME = "volume"
PATHS = ("input_path", "psf", "mask", "model", "output", "cluster", "log_directory", "log_file")
"""What may hold the path of a file."""
CLUSTERS = ("local", "slurm")
NOT_IN_FILES = ("config", "save_config", "help", "dry_run")
"""Options that a file cannot hold."""
NOT_SAVED = (*NOT_IN_FILES, "overwrite", "quiet", "as_json", "calibrate")
"""Options that are about one call only: a file that says overwrite would never continue a run."""
PRIVATE = ("prologue", "job_directive")
MARK = "# Settings of bigdecon, written by --save-config."
LARGEST_BYTES = 2**20


class RecordedCommand(click.Command):
    """A command that remembers what was typed, for the record of the run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments before they are taken apart."""
        ctx.meta["bigdecon.arguments"] = tuple(args)
        return super().parse_args(ctx, args)


def command_line(context: click.Context) -> str:
    """Give the command as it was typed, for records: what may be secret is left out."""
    shown, hides = [], False
    private = tuple(f"--{name.replace('_', '-')}" for name in PRIVATE)
    for argument in context.meta.get("bigdecon.arguments", ()):
        flag, equals, _ = argument.partition("=")
        secret = equals and flag in private
        shown.append("..." if hides else f"{flag}=..." if secret else shown_url(argument))
        hides = argument in private and not hides
    return f"bigdecon {context.info_name} {shlex.join(shown)}".strip()


def config_options(command: Any) -> Any:
    """Give a command --config and --save-config."""
    read = click.option(
        "--config",
        type=click.Path(),
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_take_settings,
        help="Read settings from this TOML file; what is typed wins.",
    )
    save = click.option(
        "--save-config",
        type=click.Path(),
        metavar="FILE",
        help="Write what differs from the defaults to this TOML file, for --config.",
    )
    return read(save(command))


def was_given(context: click.Context, name: str) -> bool:
    """Whether an option was typed, or stands in the file of --config."""
    given = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.DEFAULT_MAP)
    return context.get_parameter_source(name) in given


def typed(context: click.Context, name: str) -> bool:
    """Whether an option was typed."""
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def given_as(context: click.Context, name: str) -> str:
    """Name an option as the user gave it: the flag, or the key in the file."""
    if context.get_parameter_source(name) is click.core.ParameterSource.DEFAULT_MAP:
        return f"{name.replace('_', '-')} (in {context.meta['bigdecon.config']})"
    return "--" + name.replace("_", "-")


# --- reading -------------------------------------------------------------------------------------


def _take_settings(context: click.Context, option: click.Parameter, file: str | None) -> None:
    """Let a file's settings stand in for the defaults."""
    if file is None or context.resilient_parsing:
        return
    known = {_key(one): one for one in context.command.params if one.name not in NOT_IN_FILES}
    folder = os.path.dirname(file)
    context.meta["bigdecon.config"] = shown_url(file)
    settings = {}
    for key, value in _read_toml(file).items():
        if key not in known:
            raise OptionError(_unknown(file, key, value, known))
        parameter = known[key]
        checked = _checked(parameter, value, f"{key} in {file}")
        settings[str(parameter.name)] = _rooted(str(parameter.name), checked, folder)
    context.default_map = settings


def _read_toml(file: str) -> dict[str, Any]:
    try:
        if not Path(file).is_file():
            kind = "is not a file" if Path(file).exists() else "does not exist"
            raise OptionError(f"--config {file} {kind}; give a TOML file, as --save-config writes one.")
        if Path(file).stat().st_size > LARGEST_BYTES:
            raise OptionError(f"--config {file} is larger than 1 MiB; give a TOML file of settings.")
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"--config {file} cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise OptionError(f"--config {file} is not a text file in UTF-8; give a TOML file.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise OptionError(
            f'--config {file} is not TOML: {error}; a line reads name = value, with text in "quotes".'
        ) from error


def _key(parameter: click.Parameter) -> str:
    """Name a parameter as in a file."""
    if isinstance(parameter, click.Argument):
        return VOLUME
    flags = [flag for flag in parameter.opts if flag.startswith("--")]
    return flags[0].removeprefix("--") if flags else str(parameter.name)


def _unknown(file: str, key: str, value: Any, known: Iterable[str]) -> str:
    """Say what is wrong with a key, and which one was probably meant."""
    if isinstance(value, dict):
        return f"{file} has a section [{key}]; all settings stand at the top, without sections."
    flag = key.replace("_", "-").lstrip("-")
    if flag.removeprefix("no-") in known and flag.startswith("no-"):
        return f"{file} has the key {key}; write {flag.removeprefix('no-')} = false."
    if flag in ("input", "image"):
        return f"{file} has the key {key}; the image is called {VOLUME}."
    if flag.replace("-", "_") in NOT_IN_FILES:
        return f"{file} has the key {key}, which is for the command line only; take it out."
    near = difflib.get_close_matches(flag, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else "the keys are the long flags of --help without dashes."
    return f"{file} has the unknown key {key}; {hint}"


def _checked(parameter: click.Parameter, value: Any, where: str) -> Any:
    """Give a value as the command line takes it, or refuse it by what would be right."""
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return _wanted(value, isinstance(value, bool), where, "true or false")
    if parameter.nargs == 3:
        right = isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))
        return _wanted(value, right, where, "three numbers, as [0.3, 0.13, 0.13]")
    if isinstance(parameter, click.Option) and parameter.multiple:
        values = value if isinstance(value, list) else [value]
        what = 'text or a list of texts, as ["one", "two"]'
        return [_text(_wanted(one, _is_text(one), where, what)) for one in values]
    return _single(parameter.type, value, where)


def _single(kind: click.ParamType, value: Any, where: str) -> Any:
    if isinstance(kind, click.Choice):
        choices = [str(choice) for choice in kind.choices]
        named = ", ".join(f'"{choice}"' for choice in choices)
        return _text(_wanted(value, _is_text(value) and _text(value) in choices, where, f"one of {named}"))
    if kind.name == "integer":
        return _wanted(value, _is_number(value) and isinstance(value, int), where, "a whole number")
    if kind.name == "float":
        return _wanted(value, _is_number(value), where, "a number")
    if kind.name == "number|auto":
        whole = getattr(kind, "kind", float) is int
        right = value == "auto" or (_is_number(value) and (isinstance(value, int) or not whole))
        return _wanted(value, right, where, f'{"a whole number" if whole else "a number"} or "auto"')
    return _text(_wanted(value, _is_text(value), where, "text in quotes"))


def _wanted(value: Any, right: bool, where: str, what: str) -> Any:
    if not right:
        raise OptionError(f"{where} is {_shown(value)}; give {what}.")
    return value


def _shown(value: Any) -> str:
    """Show a value as the file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a section"
    return repr(value) if isinstance(value, str | int | float | list) else str(value)  # a date, a time


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    """Take numbers for text, too, where text is wanted: channel = 1, ome-version = 0.4."""
    return isinstance(value, str) or _is_number(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _rooted(name: str, value: Any, folder: str) -> Any:
    """Make a path relative to where the command runs."""
    if isinstance(value, list) and name in PATHS:
        return [_rooted(name, one, folder) for one in value]
    if not _is_path(name, value):
        return value
    return os.path.join(folder, os.path.expanduser(value))


def _is_path(name: str, value: Any) -> bool:
    if name not in PATHS or not isinstance(value, str) or "://" in value or not value:
        return False
    return name != "cluster" or value not in CLUSTERS


# --- writing -------------------------------------------------------------------------------------


def check_place(file: str) -> None:
    """Refuse a place where settings cannot be written, before any work is done.

    Raises
    ------
    OutputError
        if something else is there, or there is no such folder
    """
    path = Path(file)
    if not path.parent.is_dir():
        raise OutputError(f"--save-config {file}: there is no folder {path.parent}; make it first.")
    if path.is_dir():
        raise OutputError(f"--save-config {file} is a folder; give the name of a file, as run.toml.")
    if os.path.lexists(path) and not _is_ours(path):
        raise OutputError(
            f"--save-config {file} exists and was not written by --save-config; choose another name."
        )


def _is_ours(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return path.is_file() and file.read(len(MARK)) == MARK.encode()
    except OSError:
        return False


Chosen = Sequence[tuple[str, Mapping[str, float | bool]]]
"""For every channel its name, and what was chosen for it by the names of flags."""


def save_settings(context: click.Context, file: str, *, quiet: bool = False, chosen: Chosen = ()) -> None:
    """Write what differs from the defaults, each with what it means, in one step.

    Parameters
    ----------
    context : of the command as it was called
    file : is replaced if an earlier call wrote it
    quiet : whether to say nothing of it
    chosen : settings that were chosen from the image; they are put at the end as comments

    Raises
    ------
    OutputError
        if the file is somebody else's, or cannot be written
    """
    check_place(file)
    defaults = context.command.make_context(context.info_name, [], resilient_parsing=True).params
    different = {
        parameter: value
        for parameter in context.command.params
        if parameter.name not in NOT_SAVED
        and parameter.name in defaults
        and (value := context.params.get(str(parameter.name))) != defaults[str(parameter.name)]
    }
    text = f"{MARK}\n# Use: bigdecon run --config {os.path.basename(file)}\n" + "".join(
        _entry(parameter, value, file) for parameter, value in different.items()
    )
    text += _chosen(chosen)
    private = shown_url(text) != text or any(parameter.name in PRIVATE for parameter in different)
    try:
        _write(Path(file), text.encode(), 0o600 if private else 0o666)
    except UnicodeEncodeError as error:
        raise OutputError("the settings hold a name that is not text in UTF-8; rename that file.") from error
    except OSError as error:
        raise OutputError(f"--save-config {file} cannot be written ({error.strerror or error}).") from error
    if not quiet:
        click.echo(f"Settings saved; use them with --config {file}")
        if len(chosen) == 1:
            click.echo("Those chosen from this image stand at its end, to be used for others as well.")


def _entry(parameter: click.Parameter, value: Any, file: str) -> str:
    """Write one setting below a comment that tells what it is."""
    help_text = getattr(parameter, "help", None) or "The image."
    comment = " ".join(help_text.split())
    return f"\n# {comment}\n{_key(parameter)} = {_toml(_from_file(parameter, value, file))}\n"


def _chosen(chosen: Chosen) -> str:
    """Write what was chosen, as comments: the run itself goes on choosing, and so can be continued."""
    if not chosen:
        return ""
    lines = ["", "# Chosen from this image by the run."]
    if len(chosen) == 1:
        lines.append("# To use the same numbers for other images, take away the # of the lines below:")
    else:
        lines.append("# Each channel has its own; for others give them channel by channel (--channel).")
    for name, values in chosen:
        lines += [f"# {' '.join(name.split())}"] * (len(chosen) > 1)
        lines += [f"#{key} = {_toml(value)}" for key, value in values.items()]
    return "\n".join([*lines, ""])


def _from_file(parameter: click.Parameter, value: Any, file: str) -> Any:
    """Make paths relative to the file that names them."""
    name = str(parameter.name)
    if isinstance(value, tuple) and name in PATHS:
        return tuple(_from_file(parameter, one, file) for one in value)
    folder = os.path.realpath(os.path.dirname(file) or ".")
    if not _is_path(name, value) or os.path.isabs(value) or folder == os.path.realpath("."):
        return value
    parent, last = os.path.split(value)
    return os.path.relpath(os.path.join(os.path.realpath(parent or "."), last), folder)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value) if isinstance(value, int | float) else _quoted(value)


def _quoted(text: str) -> str:
    """Write a basic string of TOML."""
    short: Mapping[str, str] = {'"': '\\"', "\\": "\\\\"}
    parts = (short.get(c) or (f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else c) for c in text)
    return f'"{"".join(parts)}"'


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace a file in one step; a link stays a link."""
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
