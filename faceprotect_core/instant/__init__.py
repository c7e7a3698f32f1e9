"""Instant: a small network looks at a face a few times and gives the change that iterations would find. Not from the
paper."""
