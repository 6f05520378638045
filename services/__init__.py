"""Myriad's hand-written code: one folder a service, and what they share."""
