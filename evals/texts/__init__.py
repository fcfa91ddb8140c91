"""Filler texts with clear licences, there without a network."""

from evals.texts.texts import SOURCES, Split, window

__all__ = ["SOURCES", "Split", "window"]
