"""The tables of the benchmarks."""

from services.dev.bench import turn
from services.dev.bench.load import Load
from services.dev.bench.turn import AT_ONCE, Loaded, Result


def measured(name: str, own: tuple[str, ...]) -> Result:
    """A way of running in which each process takes a millisecond for each turn at once."""
    load = Load(10, 0, 1.0, (0.01,) * 10)
    result = Result(name)
    for workers in AT_ONCE:
        result.turns[workers] = Loaded(load, dict.fromkeys((*own, "valkey", "milvus", "triton", "generator"), workers))
        result.direct[workers] = Loaded(load, {"triton": 1.0})
        result.echo[workers] = Loaded(load, {"echo": 1.0})
    return result


def test_the_cpu_of_each_process_is_told_for_each_load() -> None:
    _, *rows = turn._rows([measured("five processes", ("nlu", "memory")), measured("one process", ("vertical",))])
    told = {name: cells for name, *cells in rows if name.startswith("- ")}
    assert told["- nlu"] == told["- memory"] == ["1.00 / 32.00 / 256.00", ""]
    assert told["- vertical"] == ["", "1.00 / 32.00 / 256.00"]
    assert told["- beside it: triton"] == ["1.00 / 32.00 / 256.00"] * 2
    assert {len(row) for row in rows} == {3}
