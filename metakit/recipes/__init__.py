"""Recipes behind the headline figures, to be called on data of one's own."""

from metakit.recipes import handwriting

__all__ = ["handwriting"]
