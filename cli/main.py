"""The `bigdecon` command: loads a subcommand only when it is called, so that --help is quick."""

from __future__ import annotations

import importlib
import sys

import click

from bigdecon.errors import BigdeconError

COMMANDS = {
    "run": "Restore a volume: remove blur and noise together.",
    "plan": "Tell what a run would take: time, memory, disk.",
    "report": "Show what a result is like, and whether to trust it, on a page.",
    "status": "Show how far a run is, from its result on disk.",
    "verify": "Check a result on disk against the hashes of what was written.",
    "info": "Show what bigdecon sees in an image file.",
    "psf": "Make or check a point spread function.",
    "simulate": "Make a test volume with its truth and PSF.",
    "evaluate": "Score a result against the truth.",
}


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
    try:
        code = bigdecon.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("Stopped.", err=True)
        code = 130
    except click.MissingParameter as error:
        error.show()
        code = error.exit_code
    except click.BadParameter as error:
        # The option is there and its name is told: how the command is used would only hide what is wrong.
        click.echo(f"Error: {error.format_message()}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except BigdeconError as error:
        click.echo(f"Error: {error}", err=True)
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else 0)
