"""The command line: every command by its name.

Each command imports what it needs when it is called, so that --help and a mistyped option answer
at once. A user's mistake is one line on stderr and exit code 2.
"""

from __future__ import annotations

import sys

import typer

from omni_diffusion.cli import data, evaluate, models, run, train
from omni_diffusion.errors import OmniError

app = typer.Typer(
    help="One masked discrete diffusion model that reads and makes text, images and speech.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(run.demo)
app.command()(run.run)
app.command("eval")(evaluate.evaluate)
app.command()(models.doctor)
app.add_typer(train.train_app, name="train")
app.command()(models.convert)
app.add_typer(data.data_app, name="data")


def main() -> None:
    """Run the command line; no traceback for a user's mistake."""
    try:
        app()
    except OmniError as error:
        option = f" (--{error.field.replace('_', '-')})" if error.field else ""
        typer.echo(f"error: {error}{option}", err=True)
        sys.exit(2)
