"""The contract of a service, found by its name."""

import importlib

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor


def contract(proto_service: str) -> ServiceDescriptor:
    """What a proto service promises: its methods with their types and options.

    Args:
        proto_service: The full name, as `myriad.nlu.v1.NluService`. The file that declares it is named after the second
            part of its package; what is loaded already is not looked for.

    Raises:
        ModuleNotFoundError: there is no such file.
        KeyError: the file declares no such service.
    """
    pool = descriptor_pool.Default()
    try:
        return pool.FindServiceByName(proto_service)
    except KeyError:
        package = proto_service.rpartition(".")[0]
        importlib.import_module(f"{package}.{package.split('.')[1]}_pb2")
        return pool.FindServiceByName(proto_service)
