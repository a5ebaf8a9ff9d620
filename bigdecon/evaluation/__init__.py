"""Evaluation: scores against a truth, and pictures."""
