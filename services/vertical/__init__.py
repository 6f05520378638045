"""All five services in one process: the same handlers behind the same chain, met through `inproc:` instead of sockets.

About four times cheaper a turn than five processes, and how a small installation should run. One port serves all five.
"""
