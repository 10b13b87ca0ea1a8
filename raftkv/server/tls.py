"""TLS contexts from the operator's files: ALPN h2 and where there is HTTP also http/1.1, clients
checked if asked for.
"""

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from raftkv.errors import ConfigError

GRPC: Final = ("h2",)
GRPC_AND_HTTP: Final = ("h2", "http/1.1")


class Files(Protocol):
    """Certificate files of one side (raftkv.config.TlsFiles)."""

    @property
    def cert_file(self) -> Path: ...
    @property
    def key_file(self) -> Path: ...
    @property
    def ca_file(self) -> Path | None: ...
    @property
    def require_client_cert(self) -> bool: ...


def server_context(files: Files, protocols: Sequence[str] = GRPC) -> ssl.SSLContext:
    """What a listener serves with. Raises ConfigError naming the file that cannot be used.

    protocols: by ALPN, the favourite first.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, files)
    context.set_alpn_protocols(protocols)
    if files.require_client_cert:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(files: Files) -> ssl.SSLContext:
    """What this member dials others with: the same certificate as a client's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, files)
    if files.ca_file is None:
        context.load_default_certs()
    return context


def _load(context: ssl.SSLContext, files: Files) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(GRPC)
    try:
        context.load_cert_chain(files.cert_file, files.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"cannot use certificate {files.cert_file} with key {files.key_file}: {error}"
        ) from None
    if files.ca_file is not None:
        try:
            context.load_verify_locations(files.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"cannot use CA file {files.ca_file}: {error}") from None
