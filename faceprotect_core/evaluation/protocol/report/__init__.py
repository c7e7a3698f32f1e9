"""The results as Markdown and pictures."""
