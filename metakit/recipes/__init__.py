"""Recipes behind the headline figures, to be called on data of one's own."""

from metakit.recipes import handwriting, optimizer

__all__ = ["handwriting", "optimizer"]
