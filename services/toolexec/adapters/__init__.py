"""The outside of toolexec: one file per system, and the fakes."""
