"""pytest fixtures: a server, a cluster. Loaded by pytest itself once raftkv is installed.

    def test_config_is_reloaded(raftkv_server):
        client = etcd3.client(port=raftkv_server.port)          any etcd client

    @pytest.mark.raftkv(nodes=5, processes=True)
    def test_service_survives_its_leader(raftkv_cluster):
        raftkv_cluster.kill_leader()

`raftkv_server` is one node for the whole session. Each test finds it healthy and empty: before
the test, leases are revoked and keys deleted, a paused node is resumed, one that is down started
again. Revisions go on growing, and old ones can be read: a test that needs revision 1
takes a cluster of its own.

`raftkv_cluster` is a new cluster for each test. With the ini option `raftkv_cluster_scope` set to
class, module, package or session it is shared instead, and made whole and empty before each test.
A member that ended by itself fails the test that met it, at its end.

Under pytest-xdist each worker has servers of its own. Nothing of the server is imported before the
first test that takes a fixture.

ini options (pytest.ini, [tool.pytest.ini_options]):

    raftkv_nodes            members of raftkv_cluster            3
    raftkv_processes        members are processes                false
    raftkv_flags            flags of `raftkv serve`, a line each: snapshot-count=100
    raftkv_cluster_scope    scope of the cluster                 function

The marker `raftkv(nodes=..., processes=..., flags=...)` sets the first three for a test's own
cluster; with another scope there is none of its own, and the marker is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftkv.testing.cluster import Cluster

MARKER: Final = "raftkv"
_SETTINGS: Final = ("nodes", "processes", "flags")
_Scope = Literal["session", "package", "module", "class", "function"]
_SCOPES: Final[tuple[_Scope, ...]] = ("session", "package", "module", "class", "function")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The ini options."""
    parser.addini("raftkv_nodes", "members of raftkv_cluster", default="3")
    parser.addini("raftkv_processes", "members are processes", type="bool", default=False)
    parser.addini("raftkv_flags", "flags of raftkv serve, name=text", type="linelist", default=[])
    parser.addini("raftkv_cluster_scope", "scope of raftkv_cluster", default="function")


def pytest_configure(config: pytest.Config) -> None:
    """The marker; wrong ini options end pytest before any test."""
    _scope("", config)
    _settings(config)
    config.addinivalue_line(
        "markers",
        f"{MARKER}(nodes=3, processes=False, flags={{}}): what the test's raftkv_cluster is like",
    )


def _scope(fixture_name: str, config: pytest.Config) -> _Scope:
    text = config.getini("raftkv_cluster_scope")
    for scope in _SCOPES:
        if scope == text:
            return scope
    raise pytest.UsageError(f"raftkv_cluster_scope: {text!r} is none of {', '.join(_SCOPES)}")


def _settings(config: pytest.Config) -> dict[str, Any]:
    """What the ini file says of clusters."""
    nodes = config.getini("raftkv_nodes")
    if not nodes.isdigit() or not int(nodes):
        raise pytest.UsageError(f"raftkv_nodes: {nodes!r} is no number of nodes")
    flags = {}
    for line in config.getini("raftkv_flags"):
        name, equals, text = line.partition("=")
        if not equals:
            raise pytest.UsageError(f"raftkv_flags: {line!r} is not name=text")
        flags[name.strip().lstrip("-")] = text.strip()
    return {
        "nodes": int(nodes),
        "processes": config.getini("raftkv_processes"),
        "flags": flags,
    }


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the test's markers say, the nearest one first of all."""
    found: dict[str, Any] = {}
    for marker in request.node.iter_markers(MARKER):
        unknown = sorted(set(marker.kwargs) - set(_SETTINGS))
        if unknown or marker.args:
            wrong = unknown[0] if unknown else repr(marker.args[0])
            raise pytest.UsageError(
                f"@pytest.mark.{MARKER} takes {', '.join(_SETTINGS)} by name, not {wrong}"
            )
        for name, value in marker.kwargs.items():
            found.setdefault(name, value)
    return found


@pytest.fixture(scope="session")
def _raftkv_session_server(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    from raftkv.testing.cluster import Cluster

    with Cluster(**{**_settings(request.config), "nodes": 1}) as server:
        yield server


@pytest.fixture
def raftkv_server(_raftkv_session_server: Cluster) -> Iterator[Cluster]:
    """One raftkv node, healthy and empty. `endpoint` is host:port, `port` the port alone.

    It is a `raftkv.testing.Cluster` of one member, shared by the tests of the session.
    """
    yield from _made_whole(_raftkv_session_server)


@pytest.fixture(scope=_scope)
def _raftkv_scoped_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    from raftkv.testing.cluster import Cluster

    settings = _settings(request.config)
    if request.scope == "function":
        settings |= _marked(request)
    with Cluster(**settings) as cluster:
        yield cluster


@pytest.fixture
def raftkv_cluster(
    request: pytest.FixtureRequest, _raftkv_scoped_cluster: Cluster
) -> Iterator[Cluster]:
    """A `raftkv.testing.Cluster`, three nodes unless told otherwise; all answer, all are empty."""
    if _scope("", request.config) == "function":
        yield _raftkv_scoped_cluster
        return
    if _marked(request):
        raise pytest.UsageError(
            f"@pytest.mark.{MARKER} needs a cluster of its own for the test: "
            "it does not go with raftkv_cluster_scope"
        )
    yield from _made_whole(_raftkv_scoped_cluster)


def _made_whole(cluster: Cluster) -> Iterator[Cluster]:
    cluster.recover()
    cluster.clear()
    yield cluster
    cluster.check()
