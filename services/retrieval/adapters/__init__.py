"""What core's ports are in the world: Triton, Milvus; and the fakes of them."""
