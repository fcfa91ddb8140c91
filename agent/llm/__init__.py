"""Language models as proposers: providers, the turn, its memory, and an account of every request."""
