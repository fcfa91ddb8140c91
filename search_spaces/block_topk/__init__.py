"""The space of page-sparse top-k attention: known algorithms as seeds, and the controls."""

from search_spaces.block_topk.space import SeedFile, are_ours, controls, library, seeds

__all__ = ["SeedFile", "are_ours", "controls", "library", "seeds"]
