"""Runs agents: the agent loop, its log, and the service behind the edge.

Answers sessions, turns, runs and agents. Calls memory, nlu, retrieval, toolexec and the model tier; keeps run logs in
Redis. Never speaks to the outside world, and never reads a document or a history that its caller could not.
"""
