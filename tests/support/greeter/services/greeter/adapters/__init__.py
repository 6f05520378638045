"""Adapters of greeter's port."""
