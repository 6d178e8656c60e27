"""The outer loop: learn what the inner loop starts from and works with."""

from metakit.outer.fit import DivergedError, History, Run, fit
from metakit.outer.step import OuterStep

__all__ = ["DivergedError", "History", "OuterStep", "Run", "fit"]
