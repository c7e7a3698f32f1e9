"""Face recognition networks, one file each."""
