"""What an error must not tell its reader: names of classes, modules and files, hosts, stacks, what we run on."""

import re
from types import MappingProxyType

_CONTRACT = re.compile(r"(?:type\.googleapis\.com/)?\b(?:myriad\.\w+\.v1|google\.protobuf)\.[A-Z]\w+")
"""Names in the contract, which every client has."""

_PATTERNS = MappingProxyType(
    {
        "class": re.compile(r"\b[A-Za-z]*[a-z](?:Error|Exception|Warning)\b"),
        "module": re.compile(r"\b[a-z_]\w*(?:\.[a-z_]\w*)*\.[A-Z]\w+|\b(?:services|google|grpc|pymilvus)\.\w+"),
        "stack": re.compile(r"Traceback|\bline \d+|\.(?:py|lua|so|cc)\b|\bat 0x[0-9a-f]+|<[\w. ]+ object"),
        "file": re.compile(r"(?<![\w:.])/(?:[\w.-]+/)+[\w.-]*|file://"),
        "host": re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b|\[?::1\]?|\blocalhost\b|\bipv[46]:|\b[a-z][\w.-]*:\d{2,5}\b"),
        "backend": re.compile(
            r"\b(?:redis|valkey|milvus|triton|kserve|grpc|protobuf|upb|python|asyncio|upstream|wrongtype|fcall)\b", re.I
        ),
    }
)


def leaks(text: str) -> list[str]:
    """What the text tells that it must not: `host: 127.0.0.1`."""
    rest = _CONTRACT.sub("", text)
    return [f"{kind}: {found[0]}" for kind, pattern in _PATTERNS.items() for found in pattern.finditer(rest)]
