"""Agents to start from, and what they talk to. Not part of the wheel."""
