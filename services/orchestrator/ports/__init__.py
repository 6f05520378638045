"""What the decisions need from outside. Each method raises `ServiceError`s; each call ends by its own deadline."""
