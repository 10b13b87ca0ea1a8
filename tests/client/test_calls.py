"""What goes along with every call."""

import asyncio
from typing import Any

import grpc.aio
import pytest

from raftkv.client import TLS, aio, channels
from raftkv.client.aio import runtime as aio_runtime
from raftkv.client.settings import Settings, parsed
from raftkv.client.sync import runtime as sync_runtime
from tests.client.conftest import Served


class Marking(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Adds to the metadata of each call, in place; `found` is what it was before."""

    def __init__(self) -> None:
        self.found: list[list[tuple[str, str]]] = []

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """See grpc."""
        self.found.append(list(details.metadata))
        details.metadata.add("mark", "1")
        return await continuation(details, request)


def test_what_an_interceptor_writes_to_the_metadata_is_for_one_call(raftkv_served: Served) -> None:
    marking = Marking()

    async def scenario() -> None:
        async with aio.Client(raftkv_served.endpoints, interceptors=[marking]) as client:
            await client.get("a")
            await client.get("a")

    asyncio.run(scenario())
    assert marking.found == [[("hasleader", "true")]] * 2


def _options(**given: Any) -> dict[str, int | str]:
    settings = Settings(endpoints=parsed("127.0.0.1:1", given.get("tls")), **given)
    return dict(channels.options(settings))


def test_optional_stages_of_a_channel_are_there_only_for_options_of_the_user() -> None:
    assert _options()["grpc.minimal_stack"] == 1
    compressing = _options(channel_options=[("grpc.default_compression_algorithm", 2)])
    assert "grpc.minimal_stack" not in compressing
    assert compressing["grpc.default_compression_algorithm"] == 2


def test_an_option_of_the_user_replaces_the_client_s_own() -> None:
    assert _options(channel_options=[("grpc.enable_retries", 1)])["grpc.enable_retries"] == 1
    assert _options(tls=TLS(server_name="db"))["grpc.ssl_target_name_override"] == "db"


@pytest.mark.parametrize("pairs", [(), (("token", "t"), ("hasleader", "true"))])
def test_prepared_metadata_say_what_they_were_made_of(pairs: tuple[tuple[str, str], ...]) -> None:
    for prepared in (aio_runtime.prepared(pairs), sync_runtime.prepared(pairs)):
        assert tuple(prepared) == pairs
        assert len(prepared) == len(pairs)
        assert bool(prepared) == bool(pairs)
    assert isinstance(aio_runtime.prepared(pairs), grpc.aio.Metadata), "else grpcio makes it anew"
