"""What retrieval decides: whose rows, which chunks, what to look for."""
