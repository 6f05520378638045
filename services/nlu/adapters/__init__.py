"""What core's ports are in the world: Triton, the memory service, files; and the fakes of them."""
