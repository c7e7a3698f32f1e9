"""Does it work? What recognisers say of a protected photo, and how that is told."""
