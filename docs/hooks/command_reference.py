"""The page commands.md: what `--help` says of every command, made from the commands themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import click
from bigdecon_cli.main import bigdecon
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

__all__ = ["on_files", "on_page_markdown", "reference"]

TOP = """# Commands

What `bigdecon COMMAND --help` prints, for reading and searching.

"""
UNWRAPPED = "\b\n"
"""Click prints a paragraph after this mark line by line."""
PLACE = "<!-- or the page of commands -->"
"""Only the site has that page: elsewhere a link to it would lead nowhere."""


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the page."""
    files.append(File.generated(config, "commands.md", content=reference()))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Link to the page where a page of the repository says so."""
    return markdown.replace(PLACE, ", [Commands](commands.md)")


def reference() -> str:
    """Write the page."""
    top = click.Context(bigdecon, info_name="bigdecon")
    return TOP + "\n".join(_section(context) for context in _contexts(top))


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
    rows = [_row(context, p) for p in context.command.get_params(context) if isinstance(p, click.Option)]
    return "\n\n".join([*parts, "\n".join(["| option | meaning |", "|---|---|", *rows])]) + "\n"


def _row(context: click.Context, option: click.Option) -> str:
    """Give one row of the table; what may be chosen stands with the meaning, where there is room."""
    names, meaning = option.get_help_record(context) or (option.opts[0], "")
    choices = option.make_metavar(context) if isinstance(option.type, click.Choice) else ""
    listed = f" One of {', '.join(f'`{c}`' for c in option.type.choices)}." if choices else ""
    return f"| `{names.removesuffix(choices).strip()}` | {_words(meaning)}{listed} |"


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
