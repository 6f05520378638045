"""One file per system outside the orchestrator."""
