"""The same with less: memory, passes, and what they will take."""
