"""toolexec: lists and runs the tools of an agent, and is the only service that speaks to the outside world.

It answers `ListTools` and `Execute`. It calls memory (for the agent's revision), Redis (results by idempotency key)
and whatever HTTP tools name. It never retries a call, never runs what needs a person's approval, never follows an
agent's URL to an address that is not public, and sends nothing of the caller's identity outside.
"""
