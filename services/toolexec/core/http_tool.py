"""Runs an HTTP tool: builds the request, follows what may be followed, reads the answer."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from services.kit.errors import FailedPrecondition
from services.toolexec.core.answer import Answer, problem, read_answer
from services.toolexec.core.url import Base, UrlRefused, fill, read_base, redirected, with_query
from services.toolexec.domain import HttpCall, HttpRequest, HttpResponse, Url
from services.toolexec.ports import HttpCaller

MAX_REDIRECTS = 3
_IN_THREAD_BYTES = 65_536
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ACCEPT = "application/json, text/*;q=0.5"


class HttpTools:
    """Calls HTTP tools."""

    def __init__(self, caller: HttpCaller, endpoints: Mapping[str, str], public_ports: frozenset[int]) -> None:
        """Reads the configuration.

        Args:
            caller: Speaks HTTP.
            endpoints: Name to URL, of what the operator allows beside public addresses.
            public_ports: Ports of public addresses that may be called.

        Raises:
            ValueError: an endpoint is no URL.
        """
        self._caller = caller
        self._public_ports = public_ports
        self._endpoints: dict[str, Base] = {}
        for name, url in endpoints.items():
            try:
                self._endpoints[name] = read_base(url)
            except UrlRefused as error:
                raise ValueError(f"the endpoint {name} cannot be used: {error}") from None

    async def run(self, name: str, call: HttpCall, arguments: Mapping[str, Any], idempotency_key: str) -> Answer:
        """Makes one call of the tool `name`; `idempotency_key` is sent where the tool declares it.

        Raises:
            FailedPrecondition: the tool's URL, or where it redirects to, may not be called.
            InvalidToolArguments: an argument cannot stand in the URL.
            ToolResponseTooLarge: the answer is larger than the tool allows.
            ToolUnavailable: the endpoint cannot be reached.
        """
        try:
            request = self._request(call, arguments, idempotency_key)
            response = await self._exchange(request)
        except UrlRefused as error:
            raise FailedPrecondition(f"the URL of the tool {name} may not be called: {error}") from None
        if response is None:
            return problem(f"the tool redirected more than {MAX_REDIRECTS} times")
        if len(response.body) > _IN_THREAD_BYTES:
            return await asyncio.to_thread(read_answer, call, response)
        return read_answer(call, response)

    def _request(self, call: HttpCall, arguments: Mapping[str, Any], idempotency_key: str) -> HttpRequest:
        base = self._endpoints.get(call.endpoint)
        if call.endpoint and base is None:
            raise UrlRefused(f"the operator has no endpoint {call.endpoint}")
        url, used = fill(call.url, base, arguments)
        rest = {name: value for name, value in arguments.items() if name not in used}
        headers = {"Accept": _ACCEPT, "Accept-Encoding": "identity", "User-Agent": "myriad"}
        if call.idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        body = None
        if call.method in {"GET", "DELETE"}:
            url = with_query(url, rest)
        else:
            headers["Content-Type"] = "application/json"
            body = json.dumps(rest, allow_nan=False).encode()
        if base is None:
            self._check_port(url)
        return HttpRequest(call.method, url, headers, body, base is None, call.max_response_bytes)

    async def _exchange(self, request: HttpRequest) -> HttpResponse | None:
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._caller.call(request)
            # Only a public GET is led elsewhere: an effect stays where its author sent it.
            follows = request.public_only and request.method == "GET" and response.status in _REDIRECTS
            if not follows or not response.location:
                return response
            url = redirected(request.url, response.location)
            self._check_port(url)
            request = replace(request, url=url)
        return None

    def _check_port(self, url: Url) -> None:
        if url.port not in self._public_ports:
            raise UrlRefused(f"public addresses are not called on port {url.port}")
