"""Formats of weights on disk, one file each."""
