"""The supervisor with small programs as parts: order, failure, restart, and nobody left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from services.dev import part as part_module
from services.dev import processes, supervisor
from services.dev.engines import Launch
from services.dev.environment import base_environment
from services.dev.part import Part
from services.dev.readiness import NotReady
from services.dev.state import PartState, State
from services.dev.supervisor import PartFailed, Supervisor
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[3]


class Scene:
    """A supervisor over shell scripts, and what it reported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.reports: list[tuple[str, State]] = []
        self.lines: dict[str, list[str]] = {}

    def part(self, name: str, script: str, *needs: str, ready: bool = True, grace_s: float = 2.0) -> Part:
        async def probe() -> None:
            if not ready or not self.file(name).exists():
                raise NotReady("says nothing")

        launch = Launch(
            ("/bin/sh", "-c", script.replace("READY", f"touch {self.file(name)}")), {}, stop_grace_s=grace_s
        )
        return Part(name, "127.0.0.1:1", launch, probe, needs, start_timeout_s=10.0 if ready else 0.5)

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.ready"

    def supervise(self, *parts: Part) -> Supervisor:
        environ = base_environment(os.environ, (processes.MARK, self.mark))
        return Supervisor(parts, lambda name: self.folder / f"{name}.log", environ, self._report)

    def _report(self, name: str, part: PartState, lines: list[str]) -> None:
        self.reports.append((name, part.state))
        if lines:
            self.lines[name] = lines

    def left(self) -> list[int]:
        return [process.pid for process in processes.belonging(self.mark, {})]

    def order(self, state: State) -> list[str]:
        return [name for name, seen in self.reports if seen is state]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


RUNS = "READY; exec sleep 60"


async def test_part_starts_after_what_it_needs_and_stops_before_it(scene: Scene) -> None:
    supervised = scene.supervise(
        scene.part("store", RUNS), scene.part("middle", RUNS, "store"), scene.part("edge", RUNS, "middle", "store")
    )
    await supervised.start()
    assert scene.order(State.READY) == ["store", "middle", "edge"]
    await supervised.stop()
    assert scene.order(State.STOPPED) == ["edge", "middle", "store"]
    assert scene.left() == []


async def test_part_that_waits_itself_starts_at_once_and_still_stops_first(scene: Scene) -> None:
    slow = scene.part("store", "sleep 0.3; READY; exec sleep 60")
    supervised = scene.supervise(slow, replace(scene.part("service", RUNS, "store"), waits=False))
    await supervised.start()
    assert scene.order(State.READY) == ["service", "store"]
    await supervised.stop()
    assert scene.order(State.STOPPED) == ["service", "store"]


async def test_parts_that_need_each_other_not_start_together(scene: Scene) -> None:
    begun = [scene.file(f"begun-{index}") for index in range(4)]
    all_begun = " && ".join(f"test -e {each}" for each in begun)
    wait = f"until {all_begun}; do sleep 0.02; done; READY; exec sleep 60"
    supervised = scene.supervise(
        *(scene.part(f"p{index}", f"touch {each}; {wait}") for index, each in enumerate(begun))
    )
    await supervised.start()
    assert {state.state for state in supervised.states.values()} == {State.READY}
    await supervised.stop()


async def test_part_that_ends_while_starting_fails_the_start_with_its_log(scene: Scene) -> None:
    supervised = scene.supervise(
        scene.part("good", RUNS), scene.part("bad", "echo cannot bind; exit 3"), scene.part("after", RUNS, "bad")
    )
    with pytest.raises(PartFailed) as caught:
        await supervised.start()
    await supervised.stop()
    assert (caught.value.name, caught.value.lines) == ("bad", ["cannot bind"])
    assert "exit status 3" in caught.value.reason
    assert "after" not in {name for name, _ in scene.reports}
    assert scene.left() == []


async def test_part_that_never_answers_fails_the_start(scene: Scene) -> None:
    supervised = scene.supervise(scene.part("mute", "exec sleep 60", ready=False))
    with pytest.raises(PartFailed, match="says nothing"):
        await supervised.start()
    await supervised.stop()
    assert scene.left() == []


async def test_program_that_is_not_there_fails_the_start(scene: Scene) -> None:
    launch = Launch(("/nowhere/program",), {})
    supervised = scene.supervise(Part("absent", "127.0.0.1:1", launch, scene.part("x", "").probe))
    with pytest.raises(PartFailed) as caught:
        await supervised.start()
    await supervised.stop()
    assert caught.value.lines == ["cannot run /nowhere/program: No such file or directory"]


async def test_part_that_dies_is_started_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_S", 0.05)
    supervised = scene.supervise(scene.part("fragile", f"echo last words; {RUNS}"))
    await supervised.start()
    before = supervised.states["fragile"].pid
    supervised.kill("fragile")
    fragile = supervised.states["fragile"]
    await until(lambda: (fragile.restarts, fragile.state) == (1, State.READY), 15)
    assert supervised.states["fragile"].pid != before
    assert scene.lines["fragile"] == ["last words"]
    await supervised.stop()
    assert scene.left() == []


async def test_part_that_keeps_dying_is_started_ever_more_slowly(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_S", 0.05)
    first_only = f"test -e {scene.file('once')} && exit 1; touch {scene.file('once')}; {RUNS}"
    supervised = scene.supervise(scene.part("doomed", first_only))
    await supervised.start()
    supervised.kill("doomed")
    began = time.monotonic()
    await until(lambda: supervised.states["doomed"].restarts >= 4, 15)
    assert time.monotonic() - began > 0.05 + 0.1 + 0.2 + 0.4
    await supervised.stop()
    assert scene.left() == []


async def test_what_a_part_leaves_that_is_given_no_time_is_removed(scene: Scene) -> None:
    others, own = scene.file("other"), scene.file("own")
    others.touch()
    part = scene.part("quick", f"trap '' TERM; touch {own}; READY; sleep 60 & wait", grace_s=0.0)
    supervised = scene.supervise(replace(part, launch=replace(part.launch, leaves=str(scene.folder / "own.*"))))
    await supervised.start()
    assert own.exists()
    began = time.monotonic()
    await supervised.stop()
    assert time.monotonic() - began < 10
    assert (own.exists(), others.exists(), scene.left()) == (False, True, [])


async def test_part_that_ignores_the_signal_is_killed_after_its_grace(scene: Scene) -> None:
    stubborn = "trap '' TERM; READY; while :; do sleep 0.05; done"
    supervised = scene.supervise(scene.part("stubborn", stubborn, grace_s=0.2))
    await supervised.start()
    began = time.monotonic()
    await supervised.stop()
    assert 0.2 <= time.monotonic() - began < 10
    assert scene.left() == []


async def test_what_a_part_started_ends_with_it(scene: Scene) -> None:
    supervised = scene.supervise(scene.part("parent", "sleep 60 & READY; wait"))
    await supervised.start()
    await until(lambda: len(scene.left()) == 2, 15)
    await supervised.stop()
    await until(lambda: scene.left() == [], 15)


async def test_stop_while_starting_leaves_nobody(scene: Scene) -> None:
    supervised = scene.supervise(scene.part("slow", "exec sleep 60"), scene.part("other", RUNS))
    starting = asyncio.create_task(supervised.start())
    await until(lambda: len(scene.left()) == 2, 15)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await supervised.stop()
    assert scene.left() == []


def test_parts_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    program = (
        "import asyncio, sys; from pathlib import Path\n"
        "from services.dev.engines import Launch; from services.dev.part import Part, PartProcess\n"
        "async def main():\n"
        "    part = Part('p', '', Launch(('/bin/sleep', '60'), {}), None)\n"
        "    await PartProcess.start(part, Path(sys.argv[1]), {'MYRIAD_STACK': sys.argv[2]})\n"
        "    print('started', flush=True); await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "log"), mark]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        found = comes_to(mark, 1)
        parent.send_signal(signal.SIGKILL)
    assert found
    assert comes_to(mark, 0)


def comes_to(mark: str, count: int) -> bool:
    """Whether so many processes of a stack are there before long. One that has just begun has no mark yet."""
    end = time.monotonic() + 30
    while len(processes.belonging(mark, {})) != count:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 100_000 + b"\n" + b"\n".join(b"line %d \xff" % number for number in range(30)))
    assert part_module.tail(log, 2) == ["line 28 \ufffd", "line 29 \ufffd"]
    assert part_module.tail(tmp_path / "absent") == []


async def test_part_that_lost_a_process_of_its_own_is_started_again_when_it_needs_it(scene: Scene) -> None:
    script = "sleep 60 & echo $! > crew; READY; exec sleep 60"
    needy, sturdy = (
        replace(scene.part(name, f"cd {scene.folder}; mkdir -p {name}; cd {name}; {script}"), needs_crew=need)
        for name, need in (("needy", True), ("sturdy", False))
    )
    supervising = scene.supervise(needy, sturdy)
    await supervising.start()
    try:
        for name in ("needy", "sturdy"):
            os.kill(int((scene.folder / name / "crew").read_text()), signal.SIGKILL)
        await until(lambda: supervising.states["needy"].restarts == 1 and scene.order(State.READY)[-1] == "needy", 15)
        assert supervising.states["sturdy"].restarts == 0
    finally:
        await supervising.stop()
    assert scene.left() == []
