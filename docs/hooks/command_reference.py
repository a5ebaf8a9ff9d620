"""The page commands.md: what `--help` says of every command, made from the commands themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from bigdecon_cli.main import bigdecon

__all__ = ["on_files", "reference"]

TOP = """# Commands

What `bigdecon COMMAND --help` prints, for reading and searching.

"""
UNWRAPPED = "\b\n"
"""Click prints a paragraph after this mark line by line."""


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the page."""
    files.append(File.generated(config, "commands.md", content=reference()))


def reference() -> str:
    """Write the page."""
    return TOP + "\n".join(_section(context) for context in _contexts(click.Context(bigdecon, info_name="bigdecon")))


def _contexts(context: click.Context) -> Iterator[click.Context]:
    """Give every command below a group, in the order of use."""
    group = context.command
    if not isinstance(group, click.Group):
        yield context
        return
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            yield from _contexts(click.Context(command, info_name=name, parent=context))


def _section(context: click.Context) -> str:
    usage = " ".join(context.command.get_usage(context).removeprefix("Usage: ").split())
    parts = [f"## {context.command_path}", f"```text\n{usage}\n```"]
    parts += [_paragraph(text) for text in _help(context.command).split("\n\n") if text.strip()]
    records = [(p.get_help_record(context), p) for p in context.command.get_params(context)]
    rows = [f"| `{_cell(record[0])}` | {_words(record[1])} |" for record, _ in records if record]
    return "\n\n".join([*parts, "\n".join(["| option | meaning |", "|---|---|", *rows])]) + "\n"


def _help(command: click.Command) -> str:
    """Give what is said before and after the options."""
    return "\n\n".join(inspect.cleandoc(text) for text in (command.help, command.epilog) if text)


def _paragraph(text: str) -> str:
    """Give a paragraph of help as Markdown: examples as code, all else as text."""
    if not text.startswith(UNWRAPPED):
        return _words(text)
    title, _, body = text.removeprefix(UNWRAPPED).partition("\n")
    language = "sh" if title.startswith("Example") else "text"
    return f"{_words(title)}\n\n```{language}\n{inspect.cleandoc(body)}\n```"


def _words(text: str) -> str:
    """Give text in which flags are code and nothing is taken for Markdown."""
    plain = re.sub(r"([\\*_<>\[\]|])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![\w-])(--?[a-z][a-z-]*)", r"`\1`", plain).replace(r"\|", "&#124;")


def _cell(text: str) -> str:
    return text.replace("|", "&#124;") if "|" not in text else text.replace("|", r"\|")
