"""Whole photos: how hard to protect, and what is said about the result. photo.py and its helpers will move in here."""
