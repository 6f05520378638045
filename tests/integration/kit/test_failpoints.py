"""Failpoints: what they do in a test build, and that they are nothing anywhere else."""

import asyncio
import inspect
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.kit import failpoints
from services.kit.failpoints import Point
from tests.support import failing
from tests.support.failing import VARIABLE, Arming, Failed, Failpoints, parse

ROOT = Path(__file__).parents[3]
POINT = Point.AFTER_EFFECT
PASSES = f"""
import asyncio
from services.kit import failpoints
asyncio.run(failpoints.reached(failpoints.Point.{POINT.name}))
print("passed")
"""
MOST_NS = 1_000


def sources():
    here = Path(failpoints.__file__)
    return {path: path.read_text() for path in (ROOT / "services").rglob("*.py") if path != here}


@pytest.mark.parametrize(
    "wrong", ["nowhere=kill", f"{POINT}", f"{POINT}=explode", f"{POINT}=delay", f"{POINT}=kill:3", f"{POINT}=kill@x"]
)
def test_what_is_no_fault_is_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        parse(wrong)


async def test_a_fault_happens_at_its_passing_and_not_again():
    points = Failpoints(f"{POINT}=raise@3")
    await points.reached(POINT)
    await points.reached(Point.BEFORE_COMMIT)
    await points.reached(POINT)
    with pytest.raises(Failed):
        await points.reached(POINT)
    await points.reached(POINT)


async def test_a_point_delays_or_holds():
    points = Failpoints(f"{POINT}=delay:0.05, {Point.BEFORE_COMMIT}=hold")
    began = time.monotonic()
    await points.reached(POINT)
    assert time.monotonic() - began >= 0.05
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await points.reached(Point.BEFORE_COMMIT)


async def test_what_a_file_says_happens_once_in_all_that_read_it(tmp_path):
    arming = Arming(tmp_path / "points")
    one, other = (Failpoints(arming.variables[VARIABLE]) for _ in range(2))
    await one.reached(POINT)
    arming.arm(f"{POINT}=raise")
    with pytest.raises(Failed):
        await other.reached(POINT)
    await one.reached(POINT)
    assert await arming.happened(1) == os.getpid()
    arming.arm(f"{POINT}=raise@2")
    await one.reached(POINT)
    arming.disarm()
    await one.reached(POINT)
    await one.reached(POINT)


async def test_who_is_held_by_what_a_file_said_goes_on_when_released(tmp_path):
    arming = Arming(tmp_path / "points")
    points = Failpoints(arming.variables[VARIABLE])
    arming.arm(f"{POINT}=hold")
    held = asyncio.create_task(points.reached(POINT))
    await arming.happened(1)
    await asyncio.sleep(0.05)
    assert not held.done()
    arming.release()
    await asyncio.wait_for(held, 10)


def run(*command, text):
    environ = {**os.environ, VARIABLE: text, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], env=environ, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )


def test_a_test_build_dies_where_an_ordinary_process_does_not_even_read_the_variable(tmp_path):
    (tmp_path / "passes.py").write_text(PASSES)
    text = f"{POINT}=kill"
    assert run("-c", PASSES, text=text).stdout == "passed\n"
    built = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from tests.support.failing import main; main('passes')"
    assert run("-c", built, text=text).returncode == -signal.SIGKILL
    assert run("-c", built, text="").stdout == "passed\n"


def test_no_code_that_is_shipped_reads_the_variable_or_puts_anything_in_the_place_of_the_points():
    replaced = re.compile(r"failpoints\.reached\s*=|from services\.kit\.failpoints import .*\breached\b")
    for path, source in sources().items():
        assert VARIABLE not in source, path
        assert not replaced.search(source), path
    assert "tests" not in re.search(r"packages = \[(.*)\]", (ROOT / "pyproject.toml").read_text()).group(1)
    assert failing.__name__.startswith("tests.")


def test_each_point_is_somewhere():
    named = re.findall(r"await failpoints\.reached\(Point\.(\w+)\)", "".join(sources().values()))
    assert set(named) == set(Point.__members__)


async def test_a_point_that_is_nothing_costs_nothing():
    assert inspect.getsource(failpoints.reached).rstrip().endswith('"""')
    costs = []
    for _ in range(20):
        began = time.perf_counter_ns()
        for _ in range(1_000):
            await failpoints.reached(POINT)
        costs.append((time.perf_counter_ns() - began) / 1_000)
    assert min(costs) < MOST_NS
