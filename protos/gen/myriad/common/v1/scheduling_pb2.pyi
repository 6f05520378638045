from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class Concurrency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONCURRENCY_UNSPECIFIED: _ClassVar[Concurrency]
    CONCURRENCY_REJECT: _ClassVar[Concurrency]
    CONCURRENCY_ENQUEUE: _ClassVar[Concurrency]
    CONCURRENCY_INTERRUPT: _ClassVar[Concurrency]
    CONCURRENCY_ROLLBACK: _ClassVar[Concurrency]

class QueueClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUEUE_CLASS_UNSPECIFIED: _ClassVar[QueueClass]
    QUEUE_CLASS_SIMPLE: _ClassVar[QueueClass]
    QUEUE_CLASS_COMPLEX: _ClassVar[QueueClass]
    QUEUE_CLASS_GPU: _ClassVar[QueueClass]
CONCURRENCY_UNSPECIFIED: Concurrency
CONCURRENCY_REJECT: Concurrency
CONCURRENCY_ENQUEUE: Concurrency
CONCURRENCY_INTERRUPT: Concurrency
CONCURRENCY_ROLLBACK: Concurrency
QUEUE_CLASS_UNSPECIFIED: QueueClass
QUEUE_CLASS_SIMPLE: QueueClass
QUEUE_CLASS_COMPLEX: QueueClass
QUEUE_CLASS_GPU: QueueClass
