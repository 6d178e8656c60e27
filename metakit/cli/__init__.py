"""The command line: meta-train on a known problem, keep what was learned, judge it again."""

from __future__ import annotations

import typer

from metakit.cli import agents as agents  # its commands join those of train and evaluate
from metakit.cli import cases as cases
from metakit.cli import in_context as in_context
from metakit.cli.judge import evaluate
from metakit.cli.search import search
from metakit.cli.train import train

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Learn how machines learn to learn."
)
app.add_typer(train, name="train")
app.add_typer(evaluate, name="evaluate")
app.command()(search)

__all__ = ["app"]
