"""The decisions: what a text means to an agent."""
