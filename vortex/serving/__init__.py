"""Runs a found program inside inference engines."""
