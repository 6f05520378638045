"""A package, so that what its tests share is stopped when the last of them has ended."""
