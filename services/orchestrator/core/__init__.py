"""The decisions of a turn: what to ask whom, what to write down, when to stop."""
