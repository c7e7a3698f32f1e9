"""Many independent jobs, here or on workers."""
