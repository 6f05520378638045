"""The life of a stack, by the command a person types: up, seen, hurt, healed, down; and nobody is left."""

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from services.dev.state import Folder, PartState, State
from services.dev.users import operator_url
from services.kit import topology
from services.kit.acl import USERS
from tests.support.command_line import CommandLine, Terminal, Typed, on_a_terminal

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def up(typed: Typed) -> CommandLine:
    for part in (*topology.PROCESSES, "triton", "milvus", "valkey", "envoy"):
        assert f"● {part} " in typed.printed
    assert "Myriad is up" in typed.printed
    return typed.myriad


@pytest.fixture
def down(typed: Typed) -> CommandLine:
    """The same, if a test before has not stopped it."""
    if Folder(typed.myriad.work).is_owned():
        typed.myriad("down")
    return typed.myriad


def until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_every_part_is_ready_and_seen(up: CommandLine) -> None:
    known = up.status()
    assert known["state"] == "ready"
    for name, part in known["parts"].items():
        assert part["state"] == "ready", name
        assert part["pid"] > 0
        assert part["rss_mib"] > 0
        port = int(part["address"].rpartition(":")[2])
        assert port < 32768
    assert known["rss_mib"] < 2560


def test_everything_listens_on_the_loopback_only(up: CommandLine) -> None:
    own = set(
        map(os.readlink, (fd for each in up.state().processes() for fd in Path(f"/proc/{each.pid}/fd").iterdir()))
    )
    tables = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    rows = [line.split() for line in tables.splitlines() if " 0A " in line]
    hosts = {row[1].partition(":")[0] for row in rows if f"socket:[{row[9]}]" in own}
    assert hosts
    assert hosts <= {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, and the same in an IPv6 socket


def test_status_is_a_table_and_goes_on_when_watched(up: CommandLine) -> None:
    shown = up("status").stdout
    for name, part in up.state().parts.items():
        assert re.search(rf"● {name} +ready +{part.address} +{part.pid} +[0-9]+ MiB +[0-9]+ %", shown), name
    with on_a_terminal(*up.command("status", "--watch")) as terminal:
        for _ in range(2):
            terminal.read_until("● envoy")
            terminal.read_until("MiB resident in all")
        terminal.type("\x03")
    assert terminal.process.returncode == 0


def test_no_password_of_the_store_is_shown_logged_or_seen_among_the_processes(up: CommandLine) -> None:
    folder = Folder(up.work)
    passwords = {user: (folder.store / user).read_text() for user in USERS}
    said = up("status").stdout + str(up.status()) + (folder.path / "stack.json").read_text()
    said += "".join(file.read_text(errors="replace") for file in folder.logs.rglob("*") if file.is_file())
    said += "".join(Path(f"/proc/{each.pid}/cmdline").read_text() for each in up.state().processes())
    assert "redis_url" in said  # what a service is configured with is told, masked
    assert [user for user, password in passwords.items() if password in said] == []


def test_who_is_no_user_of_the_store_may_only_ask_whether_it_is_there(up: CommandLine) -> None:
    host, _, port = up.state().addresses["valkey"].partition(":")
    with Redis(host=host, port=int(port), protocol=2) as store:
        assert store.ping()
        with pytest.raises(NoPermissionError):
            store.execute_command("KEYS", "*")
    with Redis.from_url(operator_url(f"{host}:{port}", Folder(up.work).store), protocol=2) as store:
        assert store.execute_command("DBSIZE") > 0


def test_second_up_says_that_it_runs(up: CommandLine) -> None:
    again = up("up")
    assert again.returncode == 0
    assert f"already runs: {up.state().addresses['envoy']}" in again.stdout


def test_log_of_a_part_is_shown(up: CommandLine) -> None:
    assert "listening" in up("logs", "memory").stdout
    assert up("logs", "nothing").returncode == 1


def is_back(part: PartState) -> bool:
    """Whether it is ready again, for the first time."""
    return (part.restarts, part.state) == (1, State.READY)


def test_part_that_was_killed_comes_back(up: CommandLine) -> None:
    before = up.state().parts["toolexec"]
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: is_back(up.state().parts["toolexec"]), 60)
    assert up.status()["state"] == "ready"
    assert up.state().parts["toolexec"].pid != before.pid
    assert "toolexec restarting died: killed by SIGKILL" in Folder(up.work).log("stack").read_text()


def test_nobody_outlives_a_killed_supervisor(up: CommandLine) -> None:
    before = up.state()
    assert {process.session for process in before.processes()} == {part.pid for part in before.parts.values()}
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: before.processes() == [], 60)
    assert up.status()["state"] == "stopped"


def seen_and_hurt(myriad: CommandLine, terminal: Terminal) -> None:
    """The table of a stack that runs tells what is known of each part, and of one that dies what it said last."""
    shown, measured = "", re.compile(r"● triton .* [0-9]+ MiB +[0-9]+ %")
    # The table is drawn twice a second, and what is printed above it comes at once.
    while "starting" in shown or not measured.search(shown):
        shown = terminal.read_until("● envoy") + terminal.read_until("\n")
    for part, known in myriad.state().parts.items():
        ((state, address, pid),) = re.findall(rf"● {part} +(\w+) +(\S+) +([0-9]+) ", shown)
        assert (state, address, int(pid)) == ("ready", known.address, known.pid)
    os.kill(myriad.state().parts["vertical"].pid, signal.SIGKILL)
    terminal.read_until("vertical died: killed by SIGKILL")  # below the table
    assert "listening" in terminal.read_until("● vertical")
    terminal.read_until("ready ↻1")


def test_data_survive_a_killed_supervisor_and_closed_terminal_stops_a_stack_that_took_other_ports(
    down: CommandLine,
) -> None:
    """The stale state is no hindrance, one process goes on with what five had, and a taken port is passed over."""
    usual = topology.ENDPOINTS["envoy"].port
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # somebody else has it, which is as good
            taken.bind(("127.0.0.1", usual))
            taken.listen(1)
        with on_a_terminal(*down.command("up", "--vertical")) as terminal:
            assert "learning" not in terminal.read_until("Myriad is up")  # the example agent is still there
            terminal.read_until("Stop it: Ctrl-C, or ")
            seen_and_hurt(down, terminal)
            assert "aura" in down("agents", "list").stdout
            before = down.state()
            terminal.close()
    assert int(before.addresses["envoy"].rpartition(":")[2]) > usual
    assert before.processes() == []
    assert not Folder(down.work).is_owned()


def test_ctrl_c_stops_everything_while_it_starts(down: CommandLine) -> None:
    with on_a_terminal(*down.command("up", "--vertical")) as terminal:
        terminal.read_until("● valkey")
        before = down.state()
        terminal.type("\x03")
        terminal.read_until("○ valkey")
        assert terminal.read_until("\n").split()[:1] == ["stopped"]
    assert terminal.process.returncode == 0
    assert before.processes() == []


def test_part_that_cannot_start_is_shown_with_its_last_words(tmp_path: Path) -> None:
    broken = CommandLine(tmp_path)
    failed = broken("up", "--vertical", env={"MYRIAD_MEMORY_NO_SUCH_SETTING": "1"})
    assert failed.returncode == 1
    assert "● vertical" in failed.stdout
    assert "MYRIAD_MEMORY_NO_SUCH_SETTING: no such setting" in failed.stdout
    assert broken.status()["state"] == "stopped"


def test_asking_without_a_stack_says_what_to_do(tmp_path: Path) -> None:
    for arguments in (["ask", "hello"], ["chat"], ["agents", "list"]):
        refused = CommandLine(tmp_path)(*arguments)
        assert refused.returncode == 1
        assert "make up" in refused.stderr


def test_down_without_a_stack_is_no_error(tmp_path: Path) -> None:
    assert "does not run" in CommandLine(tmp_path)("down").stdout
