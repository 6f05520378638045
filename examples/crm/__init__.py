"""The order system of Kettle Lane, the invented shop that the agent Aura works for.

Answers what an agent asks a shop's order system: how far an order is, and pay it back. It keeps nothing on disk and
calls nobody. It is an example of an outside system and no service of ours: plain HTTP from the standard library.
"""
