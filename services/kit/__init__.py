"""The library every service runs on. It knows no service."""
