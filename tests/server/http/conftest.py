"""One member for all tests of this directory, with an HTTP port of its own for metrics."""

from collections.abc import Iterator

import pytest

from tests import processes


@pytest.fixture(scope="package")
def metrics_port() -> int:
    return processes.free_ports(1)[0]


@pytest.fixture(scope="package")
def port(tmp_path_factory: pytest.TempPathFactory, metrics_port: int) -> Iterator[int]:
    """The client port."""
    flags = (
        *("--listen-metrics-urls", f"http://127.0.0.1:{metrics_port}"),
        *("--host-whitelist", "x,localhost,127.0.0.1"),
        *("--cors", "http://one.example,http://two.example"),
    )
    with processes.raftkv(tmp_path_factory.mktemp("http"), 1, *flags) as cluster:
        yield cluster.servers[0].client_port
