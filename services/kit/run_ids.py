"""The id of a run, `<session_id>.<n>`: its session and its number there are known from it."""


def write_run_id(session_id: str, run: int) -> str:
    """The id of the run with this number in a session."""
    return f"{session_id}.{run}"


def read_run_id(run_id: str) -> tuple[str, int]:
    """The session and the number of a run whose id is well-formed."""
    session_id, _, run = run_id.rpartition(".")
    return session_id, int(run)


def session_of(run_id: str) -> str:
    """The session of a run."""
    return run_id.rpartition(".")[0]
