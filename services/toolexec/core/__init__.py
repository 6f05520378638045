"""The decisions of toolexec."""
