"""Attacks of the field in pixel space, as baselines."""
