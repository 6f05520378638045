"""The commands of docs/runs.md do what the page says when they are pasted, one after the other, into one shell."""

import asyncio
import base64
import json
import os
import re
import subprocess
import time

from services.dev.environment import without_proxy
from services.dev.state import ROOT
from services.toolexec.core.signing import Signer
from tests.support.client import face

PAGE = (ROOT / "docs" / "runs.md").read_text()
MARK = "=== next ==="


def pasted(address: str) -> list[str]:
    """What each block of the page prints."""
    blocks = [f"echo '{MARK}'\n{block}" for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]
    script = "set -eo pipefail\n" + "echo\n".join(blocks).replace("localhost:8080", address)
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **without_proxy(os.environ)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split(MARK)[1:]


def events(printed: str) -> list[dict]:
    return [json.loads(line.removeprefix("data: ")) for line in printed.splitlines() if line.startswith("data: ")]


async def test_the_commands_of_the_page_do_what_it_says(stack):
    try:
        background, asked, stopped, budget, forked = await asyncio.to_thread(pasted, stack.address("envoy"))
    finally:
        async with face(stack, user="dev") as admin:  # the tenant of all other tests
            await admin.http.put("/v1/budget", json={"scope": "BUDGET_SCOPE_TENANT"})
    seen = events(background)
    assert "queued" in seen[1]
    assert "year" in seen[-1]["completed"]["answer"]
    assert '"run_id":' in asked
    (finished,) = (event["tool_finished"] for event in events(asked) if "tool_finished" in event)
    assert (finished["tool"], finished["outcome"]) == ("refund_order", "TOOL_OUTCOME_OK")
    assert stopped.strip() == "{}"
    assert budget.count('"tokens":"50000000"') >= 2
    assert '"agent":"aura"' in forked


def test_the_receiver_of_the_page_takes_what_is_signed_and_nothing_else():
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    defined: dict = {}
    exec(block, defined)
    old, new = (f"whsec_{base64.b64encode(bytes([n]) * 32).decode()}" for n in (1, 2))
    signer, body, now = Signer({"acme": f"{new} {old}"}, ()), b'{"type": "run.completed"}', int(time.time())
    headers = signer.headers("acme", "msg_1", now, body)
    assert all(defined["is_ours"](headers, body, key) for key in (old, new))
    assert not defined["is_ours"](headers, body + b" ", new)
    assert not defined["is_ours"](headers, body, f"whsec_{base64.b64encode(bytes(32)).decode()}")
    assert not defined["is_ours"](headers | {"webhook-id": "msg_2"}, body, new)
    assert not defined["is_ours"](signer.headers("acme", "msg_1", now - 600, body), body, new)
