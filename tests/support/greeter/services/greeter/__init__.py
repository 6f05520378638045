"""Greets people by the time of day. It calls nobody, and keeps nothing."""
