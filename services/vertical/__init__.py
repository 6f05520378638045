"""All services in one process: the same handlers behind the same chain, met through `inproc:` instead of sockets.

Cheaper a turn than five processes (BENCHMARKS.md), and how a small installation should run. One port serves them all.
"""
