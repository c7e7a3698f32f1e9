"""What a protected photo looks like: at the edge of the change, and where nothing may have changed."""
