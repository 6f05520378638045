"""The contracts' own rules, as far as no linter knows them."""

import importlib
import re
from pathlib import Path

import pytest
from buf.validate import validate_pb2

from myriad.common.v1 import common_pb2
from services.kit import topology
from services.kit.contracts import contract

ROOT = Path(__file__).parents[2]
GENERATED = sorted((ROOT / "protos" / "gen").rglob("*_pb2*.py"))
MODULES = [".".join(path.relative_to(ROOT / "protos" / "gen").with_suffix("").parts) for path in GENERATED]


@pytest.mark.parametrize("module", [*MODULES, "buf.validate.validate_pb2"])
def test_every_generated_module_can_be_imported(module):
    importlib.import_module(module)


def methods():
    for row in topology.SERVICES.values():
        for method in contract(row.proto_service).methods:
            yield row, method


def test_the_topology_names_every_service_of_the_protos():
    declared = {
        f"{package}.{service}"
        for path in (ROOT / "protos" / "myriad").rglob("*.proto")
        for package in re.findall(r"^package (\S+);", path.read_text(), re.MULTILINE)
        for service in re.findall(r"^service (\w+)", path.read_text(), re.MULTILINE)
    }
    assert declared == {row.proto_service for row in topology.SERVICES.values()}


def test_requests_and_replies_are_named_after_their_method_save_streams_of_events():
    for _, method in methods():
        assert method.input_type.name == f"{method.name}Request"
        assert method.output_type.name in {f"{method.name}Response", "RunEvent", "DomainEvent"}


def test_a_method_is_public_exactly_when_it_has_a_route_and_its_service_is():
    for row, method in methods():
        options = method.GetOptions()
        public = options.HasExtension(common_pb2.access)
        routed = any(field.name == "http" for field, _ in options.ListFields())
        assert public == routed, method.full_name
        assert not public or row.public, method.full_name


def test_every_string_and_bytes_field_of_a_request_has_a_limit():
    unbounded = []
    for _, method in methods():
        for message in reachable(method.input_type):
            for field in message.fields:
                if field.cpp_type == field.CPPTYPE_STRING and not limited(field):
                    unbounded.append(f"{message.full_name}.{field.name}")
    assert sorted(set(unbounded)) == []


def test_every_repeated_field_and_map_of_a_request_has_a_limit():
    unbounded = []
    for _, method in methods():
        for message in reachable(method.input_type):
            for field in message.fields:
                if field.is_repeated and not counted(field):
                    unbounded.append(f"{message.full_name}.{field.name}")
    assert sorted(set(unbounded)) == []


def reachable(message, seen=None):
    seen = {} if seen is None else seen
    if message.full_name not in seen and not message.full_name.startswith("google."):
        seen[message.full_name] = message
        for field in message.fields:
            if field.message_type is not None and not field.message_type.GetOptions().map_entry:
                reachable(field.message_type, seen)
    return seen.values()


def limited(field):
    """Whether a rule bounds a field's text: its own, its items', or its map's."""
    if field.containing_type.GetOptions().map_entry:
        return True
    rules = field.GetOptions().Extensions[validate_pb2.field]
    text = rules.repeated.items if rules.HasField("repeated") else rules
    kept = {rule.name for bound in (text.string, text.bytes) for rule, _ in bound.ListFields()}
    return bool(kept & {"max_len", "max_bytes", "pattern"})


def counted(field):
    """Whether a rule bounds how many items a list has, or pairs a map."""
    rules = field.GetOptions().Extensions[validate_pb2.field]
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return rules.map.HasField("max_pairs")
    return rules.repeated.HasField("max_items")


def test_the_readme_lists_the_services_with_their_ports():
    readme = (ROOT / "README.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \|.*\| (\d+) \|$", readme, re.MULTILINE))
    assert listed == {row.name: str(row.port) for row in topology.SERVICES.values()}
