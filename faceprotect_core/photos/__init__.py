"""Whole photos: how hard to protect, and what is said about the result."""
