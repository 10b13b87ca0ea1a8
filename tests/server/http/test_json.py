"""JSON to protobuf bytes and back, beside the protobuf library's own reading of both."""

import json
import random
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from raftkv.pb import rpc_pb2
from raftkv.server.http.fromjson import BadJson, encoder, first_value
from raftkv.server.http.paths import ETCD
from raftkv.server.http.tojson import STEP_BYTES, is_map, printer, quote
from raftkv.server.services.catalogue import service_descriptors

METHODS = [method for service in service_descriptors() for method in service.methods]


def encode(kind: type[Any], text: str) -> bytes:
    value = first_value(text.encode())
    return b"" if value is None else encoder(kind.DESCRIPTOR).encode(value[0])


def parse(kind: type[Any], text: str) -> Any:
    return kind.FromString(encode(kind, text))


def fill(random_: random.Random, descriptor: Descriptor, depth: int = 3) -> Any:
    """A message with some of its fields, down to their zero values and largest ones."""
    message: Any = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if random_.random() < 0.4:
            continue
        values = [value_of(random_, field, depth) for _ in range(random_.randrange(1, 4))]
        if any(value is None for value in values):
            continue
        if is_map(field):
            getattr(message, field.name).update({"b": 2, "<": 0, "a": -1})
        elif field.is_repeated:
            getattr(message, field.name).extend(values)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(values[0])
        else:
            setattr(message, field.name, values[0])
    return message


def value_of(random_: random.Random, field: FieldDescriptor, depth: int) -> Any:
    kind = field.type
    if kind == FieldDescriptor.TYPE_MESSAGE:
        assert field.message_type is not None
        return fill(random_, field.message_type, depth - 1) if depth else None
    if kind == FieldDescriptor.TYPE_BYTES:
        return random_.randbytes(random_.randrange(5))
    if kind == FieldDescriptor.TYPE_STRING:
        return random_.choice(["", "plain", 'ü "<&>\\ \n\u2028\u0001\b', "/"])
    if kind == FieldDescriptor.TYPE_BOOL:
        return random_.random() < 0.5
    if kind == FieldDescriptor.TYPE_ENUM:
        assert field.enum_type is not None
        return random_.choice([*field.enum_type.values_by_number, 77])
    bits = 32 if kind in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32) else 64
    unsigned = kind in (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64)
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return random_.choice([0, 1, low, high, 300])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_every_message_of_the_api_survives_the_way_to_json_and_back(method: Any) -> None:
    random_ = random.Random(method.full_name)
    for descriptor in (method.input_type, method.output_type):
        for _ in range(40):
            message = fill(random_, descriptor)
            encoded = message.SerializeToString()
            text = printer(descriptor).text(encoded)
            parts: list[str] = []
            assert not any(printer(descriptor).text_steps(encoded, parts))
            assert "".join(parts) == text
            value = first_value(text.encode())
            assert value is not None
            assert type(message).FromString(encoder(descriptor).encode(value[0])) == message
            # The library reads it as the same, and the other way round.
            assert json_format.Parse(text, type(message)()) == message
            other = json_format.MessageToJson(message, preserving_proto_field_name=False)
            value = first_value(other.encode())
            assert value is not None
            assert type(message).FromString(encoder(descriptor).encode(value[0])) == message


def test_every_path_is_of_a_method_that_there_is() -> None:
    known = {f"{one.containing_service.full_name}/{one.name}" for one in METHODS}
    assert set(ETCD.values()) <= known


def test_a_put_is_encoded_as_grpc_clients_do() -> None:
    """So that it takes the short way of plain puts."""
    wanted = rpc_pb2.PutRequest(key=b"k", value=b"v").SerializeToString()
    assert encode(rpc_pb2.PutRequest, '{"value":"dg==","key":"aw=="}') == wanted


def test_fields_stand_in_their_order_with_zero_values_left_out() -> None:
    header = rpc_pb2.ResponseHeader(cluster_id=2**64 - 1, revision=-1)
    reply = rpc_pb2.RangeResponse(header=header, more=True)
    reply.kvs.add(value=b"v", key=b"k")
    reply.kvs.add()
    text = printer(rpc_pb2.RangeResponse.DESCRIPTOR).text(reply.SerializeToString())
    assert text == (
        '{"header":{"cluster_id":"18446744073709551615","revision":"-1"},'
        '"kvs":[{"key":"aw==","value":"dg=="},{}],"more":true}'
    )


def test_the_chosen_one_of_a_oneof_is_kept_even_if_it_is_zero() -> None:
    compare = parse(rpc_pb2.Compare, '{"version":0}')
    assert compare.HasField("version")
    text = printer(rpc_pb2.Compare.DESCRIPTOR).text(compare.SerializeToString())
    assert text == '{"version":"0"}'


def test_strings_are_escaped_as_go_does() -> None:
    assert quote('<a&b>"\\\n\t\b\f\x01\x7f\u2028é') == (
        '"\\u003ca\\u0026b\\u003e\\"\\\\\\n\\t\\u0008\\u000c\\u0001\x7f\\u2028é"'
    )
    assert json.loads(quote("\\b")) == "\\b"
    assert json.loads(quote("\\\b")) == "\\\b"


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ('{"limit":5}', 5),
        ('{"limit":"5"}', 5),
        ('{"limit":" 5 "}', 5),
        ('{"limit":null}', 0),
        ('{"limit":"null"}', 0),
        ('{"limit":-0}', 0),
        ('{"limit":"-3","limit":"4"}', 4),
        ('  {"limit":5} trailing', 5),
        ('{"other":[{"limit":6}],"limit":5}', 5),
    ],
)
def test_integers_may_be_strings_and_what_is_unknown_or_behind_is_ignored(
    text: str, limit: int
) -> None:
    assert parse(rpc_pb2.RangeRequest, text).limit == limit


def test_the_camel_case_name_wins() -> None:
    text = '{"rangeEnd":"YQ==","range_end":"Yg=="}'
    assert parse(rpc_pb2.RangeRequest, text).range_end == b"a"


def test_enums_may_be_numbers_and_bytes_arrays_of_numbers() -> None:
    request = parse(rpc_pb2.RangeRequest, '{"sort_order":2,"key":[1,255,null]}')
    assert (request.sort_order, request.key) == (2, b"\x01\xff\x00")


def test_line_ends_in_base64_count_for_nothing() -> None:
    text = json.dumps({"key": "YW\r\nJ\nj\nZA=\n=\n"})
    assert parse(rpc_pb2.RangeRequest, text).key == b"abcd"


@pytest.mark.parametrize(
    ("value", "at"),
    [("$$", 0), ("YQ", 0), ("YWJjYQ", 4), ("YWJjYQ=", 7), ("YQ==YQ==", 4), ("YQ=x", 2),
     ("Y===", 1), ("=", 0), ("YW-_", 2), ("YWJj=", 4), ("YWI=x", 4)],
)  # fmt: skip
def test_bad_base64_is_told_with_its_place(value: str, at: int) -> None:
    with pytest.raises(BadJson, match=f"^illegal base64 data at input byte {at}$"):
        encode(rpc_pb2.RangeRequest, json.dumps({"key": value}))


@pytest.mark.parametrize("depth", [200, 100_000])
def test_deep_nesting_is_an_answer_and_no_crash(depth: int) -> None:
    with pytest.raises(BadJson):
        encode(rpc_pb2.TxnRequest, '{"success":' * depth)


def test_a_long_message_is_printed_in_small_steps() -> None:
    reply = rpc_pb2.TxnResponse()
    for _ in range(2):
        inner = reply.responses.add().response_range
        for number in range(5_000):
            inner.kvs.add(key=b"%d" % number, value=b"v" * 100)
    encoded = reply.SerializeToString()
    parts: list[str] = []
    steps = sum(1 for _ in printer(rpc_pb2.TxnResponse.DESCRIPTOR).text_steps(encoded, parts))
    assert steps >= len(encoded) // (STEP_BYTES + 4096) - 2
    assert "".join(parts) == printer(rpc_pb2.TxnResponse.DESCRIPTOR).text(encoded)
