"""Recipes behind the headline figures, to be called on data of one's own."""

from metakit.recipes import agents, handwriting, in_context, optimizer

__all__ = ["agents", "handwriting", "in_context", "optimizer"]
