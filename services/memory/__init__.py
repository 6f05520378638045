"""Remembers: sessions with their history, who may take a turn in them, and the agents.

It answers `myriad.memory.v1`, from Redis, where every key belongs to one tenant. It calls no other service, never reads
what a message says, and never decides what an agent does.
"""
