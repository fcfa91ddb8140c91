"""The space of page-sparse top-k attention: known algorithms as seeds, and the controls."""

from search_spaces.block_topk.space import SeedFile, controls, library, seeds

__all__ = ["SeedFile", "controls", "library", "seeds"]
