"""Evaluation on a GPU: the ladder's stages through the kernels that serve."""
