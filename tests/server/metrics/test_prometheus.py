"""A real Prometheus scrapes three members and evaluates the shipped rules."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from raftkv.client import Client
from tests import processes
from tests.server.metrics.pages import families, fetch, samples
from tests.server.metrics.test_deployed import RULES, expressions, plain

SECONDS = 60.0


class Prometheus:
    """One server on the loopback, scraping members every second."""

    def __init__(self, program: str, directory: Path, targets: list[str]) -> None:
        directory.mkdir()
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "raftkv", "static_configs": [{"targets": targets}]}],
        }
        path = directory / "prometheus.yml"
        path.write_text(yaml.safe_dump(configuration))
        self._log = (directory / "log").open("wb")
        (self._port,) = processes.free_ports(1)
        self._process = subprocess.Popen(
            [
                program,
                f"--config.file={path}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def ask(self, path: str, **parameters: str) -> Any:
        """An answer of its API; None while it does not answer."""
        assert self._process.poll() is None, "Prometheus has ended"
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{query}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except (urllib.error.URLError, ConnectionError):
            return None

    def values(self, expression: str) -> list[float]:
        """What an expression says now."""
        data = self.ask("query", query=expression)
        return [] if data is None else [float(one["value"][1]) for one in data["result"]]

    def until(self, expression: str, expected: list[float]) -> None:
        """Waits until an expression says this."""
        deadline = time.monotonic() + SECONDS
        while (found := sorted(self.values(expression))) != expected:
            assert time.monotonic() < deadline, f"{expression}: {found}, not {expected}"
            time.sleep(0.2)

    def stop(self) -> None:
        """Ends it."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[processes.Cluster]:
    directory = tmp_path_factory.mktemp("cluster")
    with processes.raftkv(directory, 3, "--metrics", "extensive") as cluster:
        yield cluster


@pytest.mark.slow
def test_a_scrape_over_http_is_what_the_member_has_counted(cluster: processes.Cluster) -> None:
    """O15."""
    server = cluster.servers[0]
    before = samples(fetch(server.client_port))
    with Client(server.endpoint) as client:
        for one in range(20):
            client.put(f"http/{one}", "v")
    after = samples(fetch(server.client_port))
    labels = 'grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"'
    name = f'grpc_server_handled_total{{grpc_code="OK",{labels}}}'
    assert after[name] - before[name] == 20
    assert families(fetch(server.client_port))["etcd_server_has_leader"].kind == "gauge"


@pytest.mark.slow
def test_prometheus_scrapes_three_members_and_no_rule_fires(
    cluster: processes.Cluster, tmp_path: Path
) -> None:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian package prometheus)")
    targets = [server.endpoint for server in cluster.servers]
    prometheus = Prometheus(program, tmp_path / "prometheus", targets)
    try:
        prometheus.until("up", [1.0, 1.0, 1.0])
        prometheus.until("etcd_server_has_leader", [1.0, 1.0, 1.0])
        prometheus.until("sum(etcd_server_is_leader)", [1.0])
        with Client(targets[0]) as client:
            deadline = time.monotonic() + SECONDS
            puts = 'sum(rate(grpc_server_handled_total{grpc_method="Put",grpc_code="OK"}[10s]))'
            while not any(value > 0 for value in prometheus.values(puts)):
                assert time.monotonic() < deadline, "no rate of puts"
                client.put("k", "v")
        assert prometheus.values("sum(rate(etcd_mvcc_put_total[20s]))")[0] > 0
        _check_dashboard(prometheus)
        groups = prometheus.ask("rules")["groups"]
        found = [rule for group in groups for rule in group["rules"]]
        assert len(found) > 20
        assert [rule["name"] for rule in found if rule["health"] == "err"] == []
        assert [rule["name"] for rule in found if rule["state"] == "firing"] == []
    finally:
        prometheus.stop()


def _check_dashboard(prometheus: Prometheus) -> None:
    """Every panel has values, but those of things that have not happened."""
    nothing_yet = ("grpc_code!=", "raftkv_slow", "histogram_quantile")
    empty = [
        expression
        for expression in expressions()
        if not prometheus.values(plain(expression))
        and not any(words in expression for words in nothing_yet)
    ]
    assert empty == []
