"""Served language models: one file a vendor, the records they share, and what they cost."""
