"""`make bench`: measures the stack on this machine and writes BENCHMARKS.md. Times are compared within one run only."""
