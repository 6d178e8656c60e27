"""``python -m metakit``: the same jobs from a terminal."""

from metakit.cli import app

app()
