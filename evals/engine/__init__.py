"""Evaluation of one exported program inside a running inference engine."""
