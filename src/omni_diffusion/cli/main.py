"""The command line: every command by its name.

Each command imports what it needs when it is called, so that --help and a mistyped option answer
at once. A user's mistake is one line on stderr and exit code 2.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from typing import Any

import typer

from omni_diffusion.cli import data, evaluate, models, run, serve, train, tune
from omni_diffusion.cli.console import patient_console
from omni_diffusion.errors import OmniError

app = typer.Typer(
    help="One masked discrete diffusion model that reads and makes text, images and speech.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(run.demo)
app.command()(run.run)
app.add_typer(evaluate.eval_app, name="eval")
app.command()(serve.serve)
app.command()(tune.tune)
app.command()(models.doctor)
app.add_typer(train.train_app, name="train")
app.command()(models.convert)
app.add_typer(data.data_app, name="data")


def main() -> None:
    """Run the command line; a user's mistake is one line, with the option that it is about.

    The exit code is 141 if standard output was closed before everything was printed.
    """
    try:
        with patient_console():
            _run()
    except OmniError as error:
        typer.echo(f"error: {error}{_option(error, sys.argv[1:])}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        typer.echo(f"error: {error.filename} is too long for a name", err=True)
        sys.exit(2)


def _run() -> None:
    """Run the command; returns where it succeeds, so that the console is looked at last."""
    try:
        app()
    except SystemExit as end:
        if end.code not in (0, None):
            raise


def _option(error: OmniError, words: Sequence[str]) -> str:
    """The option of the typed command that sets the field of an error, in brackets."""
    command: Any = typer.main.get_command(app)
    for word in words:
        command = getattr(command, "commands", {}).get(word, command)
    for parameter in command.params:
        if parameter.name == error.field and parameter.param_type_name == "option":
            return f" ({max(parameter.opts, key=len)})"
    return ""
