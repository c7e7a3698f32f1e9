"""Measurements on a folder of real faces that the package does not contain: scripts, nothing that the nodes need."""
