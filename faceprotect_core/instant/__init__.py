"""Instant: a small network looks at a face once and gives the change that iterations would find. Not from the paper."""
