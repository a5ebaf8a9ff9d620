"""`bigdecon completion`: the script that has a shell complete commands, options and files."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")


@click.command("completion", short_help="Print the script that has a shell complete commands.")
@click.argument("shell", type=click.Choice(SHELLS), metavar="SHELL")
def command(shell: str) -> None:
    """Print the script that has SHELL complete commands, options, their choices, and files.

    \b
    For bash, in ~/.bashrc:              eval "$(bigdecon completion bash)"
    For zsh, in ~/.zshrc:                eval "$(bigdecon completion zsh)"
    For fish, in a file of that name:    ~/.config/fish/completions/bigdecon.fish

    \b
    Example:
      bigdecon completion bash > ~/.bigdecon-complete.bash
    """  # noqa: D301
    from bigdecon_cli.main import bigdecon
    from click.shell_completion import get_completion_class

    complete = get_completion_class(shell)
    if complete is None:
        raise click.UsageError(f"{shell} is not supported; give one of {', '.join(SHELLS)}.")
    click.echo(complete(bigdecon, {}, "bigdecon", "_BIGDECON_COMPLETE").source())
