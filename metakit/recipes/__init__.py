"""Recipes behind the headline figures, to be called on data of one's own."""

from metakit.recipes import agents, finance, handwriting, hyperparameters, in_context, language, medicine, optimizer

__all__ = ["agents", "finance", "handwriting", "hyperparameters", "in_context", "language", "medicine", "optimizer"]
