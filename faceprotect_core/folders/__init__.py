"""Many files: a folder of photos, resumable."""
