"""The messages are etcd's: compared with the descriptors that the etcd binary itself carries."""

import re
import zlib
from collections.abc import Iterator
from typing import Final

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.message import DecodeError

from raftkv.pb import auth_pb2, election_pb2, kv_pb2, lock_pb2, rpc_pb2
from tests.processes import ETCD

GZIP: Final = re.compile(rb"\x1f\x8b\x08")
LARGEST_DESCRIPTOR_BYTES: Final = 256 * 1024

FILES: Final = {
    "rpc.proto": rpc_pb2.DESCRIPTOR,
    "kv.proto": kv_pb2.DESCRIPTOR,
    "auth.proto": auth_pb2.DESCRIPTOR,
    "v3lock.proto": lock_pb2.DESCRIPTOR,
    "v3election.proto": election_pb2.DESCRIPTOR,
}

# What later releases added to what 3.5.1 has: release -> names.
ADDED: Final = {
    "3.6": {
        "etcdserverpb.HashKVResponse.hash_revision",
        "etcdserverpb.SnapshotResponse.version",
        "etcdserverpb.StatusResponse.storageVersion",
        "etcdserverpb.StatusResponse.dbSizeQuota",
        "etcdserverpb.StatusResponse.downgradeInfo",
        "etcdserverpb.DowngradeInfo.enabled",
        "etcdserverpb.DowngradeInfo.targetVersion",
    },
    "3.7": {
        "etcdserverpb.KV.RangeStream",
        "etcdserverpb.RangeStreamResponse.range_response",
    },
}


@pytest.fixture(scope="module")
def etcd_files() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    return {file.name: file for file in _descriptors_in(ETCD.read_bytes())}


def _descriptors_in(binary: bytes) -> Iterator[descriptor_pb2.FileDescriptorProto]:
    for match in GZIP.finditer(binary):
        piece = binary[match.start() : match.start() + LARGEST_DESCRIPTOR_BYTES]
        try:
            text = zlib.decompressobj(wbits=31).decompress(piece)
            file = descriptor_pb2.FileDescriptorProto.FromString(text)
        except (zlib.error, DecodeError):
            continue  # most places with these three bytes are something else
        if file.package:
            yield file


def _signatures(file: descriptor_pb2.FileDescriptorProto) -> dict[str, str]:
    """Full name of every field, enum value and call -> what counts on the wire."""
    found: dict[str, str] = {}
    for enum in file.enum_type:
        _enum(file.package, enum, found)
    for message in file.message_type:
        _message(file.package, message, found)
    for service in file.service:
        for method in service.method:
            found[f"{file.package}.{service.name}.{method.name}"] = (
                f"{method.client_streaming} {method.input_type}"
                f" {method.server_streaming} {method.output_type}"
            )
    return found


def _message(prefix: str, message: descriptor_pb2.DescriptorProto, found: dict[str, str]) -> None:
    name = f"{prefix}.{message.name}"
    for enum in message.enum_type:
        _enum(name, enum, found)
    for field in message.field:
        kind = FieldDescriptorProto.Type.Name(field.type)
        label = FieldDescriptorProto.Label.Name(field.label)
        union = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
        found[f"{name}.{field.name}"] = f"{field.number} {label} {kind} {field.type_name} {union}"
    for nested in message.nested_type:
        _message(name, nested, found)


def _enum(prefix: str, enum: descriptor_pb2.EnumDescriptorProto, found: dict[str, str]) -> None:
    for value in enum.value:
        found[f"{prefix}.{enum.name}.{value.name}"] = str(value.number)


def _own(descriptor: FileDescriptor) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    descriptor.CopyToProto(file)
    return file


@pytest.mark.parametrize("name", FILES)
def test_every_field_call_and_enum_value_is_what_etcd_has(
    name: str, etcd_files: dict[str, descriptor_pb2.FileDescriptorProto]
) -> None:
    theirs = _signatures(etcd_files[name])
    ours = _signatures(_own(FILES[name]))
    later = set().union(*ADDED.values())
    assert {k: v for k, v in ours.items() if k not in later} == theirs


def test_what_later_releases_added_is_there() -> None:
    ours = set().union(*(_signatures(_own(descriptor)) for descriptor in FILES.values()))
    assert set().union(*ADDED.values()) <= ours


def test_messages_without_fields_are_there_too(
    etcd_files: dict[str, descriptor_pb2.FileDescriptorProto],
) -> None:
    for name, descriptor in FILES.items():
        theirs = {message.name for message in etcd_files[name].message_type}
        assert theirs <= set(descriptor.message_types_by_name)
