"""The JSON face held against its own contract: requests made from the protos, right ones and wrong ones.

Each answer has a status that the document names, the schema it names for it, and is never a 5xx.
"""

import json
from collections import Counter

import pytest
import schemathesis
from google.protobuf import json_format
from google.rpc import status_pb2
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from myriad.orchestrator.v1 import run_event_pb2
from myriad.orchestrator.v1.events_pb2 import DomainEvent
from services.kit.contracts import contract
from services.kit.topology import SERVICES
from tests.support.client import face, kinds, put_agent
from tests.support.hostile import told
from tests.support.leaks import leaks
from tests.support.openapi import document

COUNT, CHAOS_COUNT = 25, 2_000
CHANCES = 4
SPARE = 5
SERVICE = contract(SERVICES["orchestrator"].proto_service)
DOCUMENT = document(SERVICE, status_pb2.Status.DESCRIPTOR)


def takes_anything(verb, path) -> bool:
    """Whether there is something about it to get wrong."""
    operation = DOCUMENT["paths"][path][verb.lower()]
    return bool(operation["parameters"] or "requestBody" in operation)


OPERATIONS = sorted((verb.upper(), path) for path, verbs in DOCUMENT["paths"].items() for verb in verbs)
CASES = [
    pytest.param(verb, path, mode, id=f"{verb} {path} {mode.value}")
    for verb, path in OPERATIONS
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    if mode is GenerationMode.POSITIVE or takes_anything(verb, path)
]
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
TIMEOUT_S = 20
BEST = {"/v1/runs/{run_id}:respond": 403, "/v1/deadLetters/{run_id}:redrive": 404}
"""What a right request gets that is not served: nobody guesses a token, and no run was given up."""
QUEUED = "/v1/runs"
"""What is created may begin next week, or when there is a worker for it: nothing else goes on in its session."""
ENDLESS = "/v1/events:watch"
"""A stream without an end, of which only the first message is read."""


@pytest.fixture(scope="module")
async def user(stack):
    await put_agent(stack, "player")
    async with face(stack) as made:
        yield made


@pytest.fixture(scope="module")
async def known(user):
    """Ids that exist."""
    session = await user.session("player")
    events = await user.turn(session, "hello")
    assert kinds(events)[-1] == "completed"
    return {"session_id": session, "run_id": events[0].run_id, "agent": "player"}


@pytest.fixture
async def spare(user):
    """Sessions that nothing else needs."""
    return [await user.session("player") for _ in range(SPARE)]


def ids_for(verb, path, known, spare) -> dict[str, str]:
    """Ids that exist, and that a call of this operation may spoil."""
    if verb == "DELETE":
        return {"session_id": spare.pop()} if spare else {}
    return known | {"session_id": spare[0]} if path == QUEUED else known


def hold(user, known, spare, verb, path, mode, count, chance=0) -> Counter[int]:
    """Holds one operation against the document. Returns how often each status came."""
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    if path == ENDLESS:
        schema.config.max_stream_events = 1
    statuses: Counter[int] = Counter()

    @seed(chance)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(schema[path][verb].as_strategy(generation_mode=mode), st.booleans())
    def held(case, exists):
        if exists:
            ids = ids_for(verb, path, known, spare)
            case.path_parameters |= {name: ids[name] for name in case.path_parameters if name in ids}
            if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
                case.body |= {name: ids[name] for name in case.body if name in ids}
        reply = case.call(base_url=str(user.http.base_url), headers=dict(user.metadata), timeout=TIMEOUT_S)
        statuses[reply.status_code] += 1
        case.validate_response(reply, checks=CHECKS)
        if reply.status_code == 200 and "event-stream" in reply.headers["content-type"][0]:
            for line in reply.text.splitlines():
                if line.startswith("data: "):
                    json_format.Parse(
                        line.removeprefix("data: "), DomainEvent() if path == ENDLESS else run_event_pb2.RunEvent()
                    )
        if reply.status_code != 200:
            body = json.loads(reply.text)
            assert not leaks(told(body)), body
            assert any(detail.get("domain") == "myriad" for detail in body["details"])

    held()
    return statuses


@pytest.mark.parametrize(("verb", "path", "mode"), CASES)
def test_every_operation_keeps_its_contract(user, known, spare, verb, path, mode):
    best, statuses = BEST.get(path, 200) if mode is GenerationMode.POSITIVE else 400, Counter()
    for chance in range(CHANCES):  # what is drawn may all be refused, as an address to call back is
        statuses += hold(user, known, spare, verb, path, mode, COUNT, chance)
        if statuses[best]:
            return
    raise AssertionError(statuses)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("verb", "path", "mode"), CASES)
def test_every_operation_keeps_its_contract_for_long(user, known, spare, verb, path, mode):
    hold(user, known, spare, verb, path, mode, CHAOS_COUNT)


def test_every_public_method_is_in_the_document():
    assert len(OPERATIONS) == len(SERVICE.methods)
