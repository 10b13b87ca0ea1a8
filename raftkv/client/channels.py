"""How channels of grpcio are set up, the same for both faces and for the keeper of leases.

grpcio reads GRPC_VERBOSITY once, when it starts, and would write each failed connect to
standard error. So where the user has not set it and nobody has imported grpcio before, it is
started quiet; the process's environment is the same before and after.
"""

import os
import sys
from typing import Final

from raftkv.client.settings import Endpoint, Settings, pem


def _import_quietly() -> None:
    name = "GRPC_VERBOSITY"
    if "grpc" in sys.modules or name in os.environ:
        return
    os.environ[name] = "NONE"
    try:
        import grpc  # noqa: F401 - it starts with its import
    finally:
        del os.environ[name]


_import_quietly()

import grpc  # noqa: E402 - not before it was started

Options = list[tuple[str, int | str]]
LONGEST_BACKOFF_MS: Final = 1000


def options(settings: Settings) -> Options:
    """The options of every channel; the user's own win.

    Of grpcio's optional stages, which every call would pass through, none is wanted: no limits of
    messages' sizes, no compression, no closing of connections without calls. Where the user sets
    options of his own they are there, for these may be meant for one of them.
    """
    milliseconds = max(int(settings.dial_timeout * 1000), 1)
    patience = max(int(settings.keepalive_timeout * 1000), 1)
    chosen: Options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),  # a retry below us could write twice
        ("grpc.min_reconnect_backoff_ms", milliseconds),  # also the time for one connect
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", LONGEST_BACKOFF_MS),
        ("grpc.dns_min_time_between_resolutions_ms", 100),  # names are looked up at each attempt
        ("grpc.keepalive_time_ms", max(int(settings.keepalive_time * 1000), 1)),
        ("grpc.keepalive_timeout_ms", patience),
        ("grpc.http2.ping_timeout_ms", patience),  # what grpcio really goes by; else a minute
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if not settings.channel_options:
        chosen.append(("grpc.minimal_stack", 1))
    if settings.tls is not None and settings.tls.server_name:
        chosen.append(("grpc.ssl_target_name_override", settings.tls.server_name))
    return list((dict(chosen) | dict(settings.channel_options)).items())  # no name twice


def credentials(settings: Settings, endpoint: Endpoint) -> grpc.ChannelCredentials | None:
    """What TLS needs; None without TLS. Errors: BadSettings if a file cannot be read."""
    if not endpoint.secure:
        return None
    tls = settings.tls
    if tls is None:
        return grpc.ssl_channel_credentials()
    return grpc.ssl_channel_credentials(pem(tls.ca), pem(tls.key), pem(tls.cert))
