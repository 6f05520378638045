"""What memory's ports are on the outside."""
