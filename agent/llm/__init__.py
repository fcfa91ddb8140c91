"""What a language model is told in a search, and what its tools answer."""
