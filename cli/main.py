"""The `bigdecon` command: loads a subcommand only when it is called, so that --help is quick."""

from __future__ import annotations

import gc
import importlib
import sys
from typing import Any

import click
from bigdecon_cli.terminal import libraries_quiet, say_error, wants_colour

from bigdecon.errors import BigdeconError

COMMANDS = {
    "run": "Restore a volume: remove blur and noise together.",
    "plan": "Tell what a run would take: time, memory, disk.",
    "report": "Show what a result is like, and whether to trust it, on a page.",
    "status": "Show how far a run is, from its result on disk.",
    "verify": "Check a result on disk against the hashes of what was written.",
    "info": "Show what bigdecon sees in an image file.",
    "psf": "Make, measure or check a point spread function.",
    "simulate": "Make a test volume with its truth and PSF.",
    "convert": "Copy an image into another format: TIFF, OME-TIFF, OME-Zarr.",
    "view": "Show a result, beside its input, in the browser.",
    "evaluate": "Score a result against the truth.",
    "doctor": "Check that bigdecon works on this machine.",
    "completion": "Print the script that has a shell complete commands.",
}

THREE_NUMBERS = "takes 3 numbers, for z, y and x; in 2D the first is 1."


class LazyGroup(click.Group):
    """A group whose commands live in modules of the same name, imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import `bigdecon_cli.<name>` and take its `command`."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"bigdecon_cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command that was typed; name the nearest where there is none."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            ctx.fail(f"No such command '{name}'.{hint}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete names of commands without importing them."""
        from click.shell_completion import CompletionItem

        names = [name for name in COMMANDS if name.startswith(incomplete)]
        commands = [CompletionItem(name, help=COMMANDS[name]) for name in names]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bigdecon")
def bigdecon() -> None:
    """Restore fluorescence volumes of any size: blur and noise are removed together.

    \b
    Example:
      bigdecon run volume.ome.zarr --psf psf.tif
    """  # noqa: D301


def main() -> None:
    """Run the command line; bad input ends with one sentence and exit code 2, never a traceback."""
    gc.set_threshold(10_000)  # imports make a million objects that stay: a seventh of the time of the start
    try:
        with libraries_quiet():
            colour = wants_colour(sys.stdout) or None
            code = bigdecon.main(prog_name="bigdecon", standalone_mode=False, color=colour)
    except click.exceptions.Abort:
        click.echo("Stopped.", err=True)
        code = 130
    except click.MissingParameter as error:
        error.show()
        code = error.exit_code
    except click.BadOptionUsage as error:
        # The option is there and its name is told: how the command is used would only hide what is wrong.
        three = "requires 3 arguments" in error.message
        say_error(f"{error.option_name} {THREE_NUMBERS}" if three else error.format_message())
        code = error.exit_code
    except click.BadParameter as error:
        three = error.param is not None and error.param.nargs == len("zyx")
        say_error(error.format_message() + f" It {THREE_NUMBERS}" * three)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except BigdeconError as error:
        say_error(str(error))
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else 0)
