"""What memory decides: sessions, turns and agents, for one principal at a time."""
