from google.api import annotations_pb2 as _annotations_pb2
from myriad.common.v1 import common_pb2 as _common_pb2
from myriad.orchestrator.v1 import budgets_pb2 as _budgets_pb2
from myriad.orchestrator.v1 import events_pb2 as _events_pb2
from myriad.orchestrator.v1 import queue_pb2 as _queue_pb2
from myriad.orchestrator.v1 import run_pb2 as _run_pb2
from myriad.orchestrator.v1 import run_event_pb2 as _run_event_pb2
from myriad.orchestrator.v1 import sessions_pb2 as _sessions_pb2
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor
