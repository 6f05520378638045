import http.server
import threading

import jsonschema_rs
import pytest

from services.kit.errors import FailedPrecondition
from services.toolexec.core.schema import Schemas


class _Counting(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.hits += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"type": "integer"}')

    def log_message(self, *_args):
        pass


@pytest.fixture
def schema_server():
    for port in range(21_000, 21_100):
        try:
            server = http.server.HTTPServer(("127.0.0.1", port), _Counting)
            break
        except OSError:
            continue
    server.hits = 0
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("where", ["$ref", "$schema", "nested"])
async def test_a_reference_to_another_document_is_never_fetched(schema_server, where):
    url = f"http://127.0.0.1:{schema_server.server_port}/x"
    schema = {"properties": {"a": {"not": {"$ref": url}}}} if where == "nested" else {where: url}
    try:
        await Schemas().check(("tenant", "agent", 1, "t"), schema, {"a": 1})
    except FailedPrecondition:
        assert where != "$schema"
    assert schema_server.hits == 0


def test_the_same_library_with_its_defaults_would_fetch_it(schema_server):
    url = f"http://127.0.0.1:{schema_server.server_port}/x"
    assert not jsonschema_rs.Draft202012Validator({"$ref": url}).is_valid("text")
    assert schema_server.hits == 1
