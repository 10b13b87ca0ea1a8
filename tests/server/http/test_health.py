"""/health, /livez and /readyz of a member in any condition; who may ask at all."""

from collections.abc import Callable

import pytest

from raftkv.errors import CORRUPT, TIMEOUT, ApiError
from raftkv.server.http.access import Access
from raftkv.server.http.health import checks_pages, health_page
from raftkv.server.http.messages import Fields, Request
from raftkv.server.http.site import Site


class Condition:
    """A member as the test says."""

    def __init__(self) -> None:
        self.raised: list[str] = []
        self.counted: list[bool] = []  # answers of /health
        self.leading = 1
        self.learner = self.stopping = False
        self.errors: dict[bool, ApiError] = {}  # by serializable
        self.waiting: list[Callable[[], None]] | None = None  # reads that are answered later

    def alarms(self) -> list[str]:
        return self.raised

    def leader(self) -> int:
        return self.leading

    def is_learner(self) -> bool:
        return self.learner

    def is_stopping(self) -> bool:
        return self.stopping

    def told(self, *, healthy: bool) -> None:
        self.counted.append(healthy)

    def read(self, serializable: bool, done: Callable[[ApiError | None], None]) -> None:
        if self.waiting is None:
            done(self.errors.get(serializable))
        else:
            self.waiting.append(lambda: done(self.errors.get(serializable)))


class Exchange:
    """Notes the answer."""

    def __init__(self) -> None:
        self.extra: Fields = ()
        self.is_open = True
        self.answers: list[tuple[int, str]] = []

    def respond(self, status: int, fields: Fields, body: bytes) -> None:
        self.answers.append((status, body.decode()))

    def begin(self, status: int, fields: Fields) -> None:
        raise AssertionError

    def write_all(self, pieces: object) -> None:
        raise AssertionError

    def end(self) -> None:
        raise AssertionError

    def queued_bytes(self) -> int:
        return 0


def ask(condition: Condition, target: str, method: bytes = b"GET") -> Exchange:
    path, _, query = target.partition("?")
    site = Site({"/health": health_page(condition), **checks_pages(condition)}, None, None)
    exchange = Exchange()
    site.open(exchange, Request(method, path, query, {}, False))
    return exchange


def answer(condition: Condition, target: str, method: bytes = b"GET") -> tuple[int, str]:
    (said,) = ask(condition, target, method).answers
    return said


@pytest.fixture
def condition() -> Condition:
    return Condition()


def health(reason: str = "") -> tuple[int, str]:
    if reason:
        return 503, f'{{"health":"false","reason":"{reason}"}}\n'
    return 200, '{"health":"true","reason":""}'


def test_health_tells_alarms_unless_they_are_excluded(condition: Condition) -> None:
    """M23, O15."""
    assert answer(condition, "/health") == health()
    condition.raised = ["NOSPACE", "CORRUPT"]
    assert answer(condition, "/health") == health("ALARM NOSPACE")
    assert answer(condition, "/health?exclude=NOSPACE") == health("ALARM CORRUPT")
    assert answer(condition, "/health?exclude=NOSPACE&exclude=CORRUPT") == health()
    assert answer(condition, "/health?exclude=&exclude=none") == health("ALARM NOSPACE")
    assert condition.counted == [True, False, False, True, False]


def test_health_needs_a_leader_and_a_read_unless_it_may_be_serializable(
    condition: Condition,
) -> None:
    """O15."""
    condition.errors[False] = TIMEOUT
    reason = "RANGE ERROR:etcdserver: request timed out"
    assert answer(condition, "/health") == health(reason)
    assert answer(condition, "/health?serializable=true") == health()
    condition.leading = 0
    assert answer(condition, "/health") == health("RAFT NO LEADER")
    assert answer(condition, "/health?serializable=true") == health()
    condition.errors[True] = CORRUPT
    reason = "RANGE ERROR:etcdserver: corrupt cluster"
    assert answer(condition, "/health?serializable=true") == health(reason)


def test_liveness_never_depends_on_the_other_members(condition: Condition) -> None:
    condition.errors[False] = TIMEOUT
    condition.leading, condition.stopping, condition.raised = 0, True, ["CORRUPT"]
    assert answer(condition, "/livez") == (200, "ok\n")
    assert answer(condition, "/livez?verbose") == (200, "[+]serializable_read ok\nok\n")
    condition.errors[True] = TIMEOUT
    failed = "[-]serializable_read failed: etcdserver: request timed out\n\n"
    assert answer(condition, "/livez") == (503, failed)


def test_readiness_shows_every_check_that_fails(condition: Condition) -> None:
    every = (
        "[+]data_corruption ok\n[+]serializable_read ok\n"
        "[+]linearizable_read ok\n[+]non_learner ok\n"
    )
    assert answer(condition, "/readyz") == (200, "ok\n")
    assert answer(condition, "/readyz?verbose") == (200, every + "ok\n")
    condition.raised, condition.learner, condition.stopping = ["CORRUPT"], True, True
    condition.errors[False] = TIMEOUT
    status, text = answer(condition, "/readyz")
    assert status == 503
    assert text == (
        "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n"
        "[-]linearizable_read failed: etcdserver: request timed out\n"
        "[-]non_learner failed: not supported for learner\n"
        "[-]shutdown failed: the member is stopping\n\n"
    )
    condition.stopping = False
    excluded = "exclude=data_corruption&exclude=linearizable_read&exclude=non_learner&exclude=x"
    shown = (200, "[+]serializable_read ok\nok\n")
    assert answer(condition, f"/readyz?verbose&{excluded}") == shown


def test_every_check_is_a_page(condition: Condition) -> None:
    condition.errors[False] = TIMEOUT
    assert answer(condition, "/readyz/data_corruption") == (200, "ok\n")
    assert answer(condition, "/readyz/linearizable_read")[0] == 503
    assert answer(condition, "/livez/serializable_read?verbose")[1].startswith("[+]")
    assert answer(condition, "/livez/linearizable_read")[0] == 404
    assert answer(condition, "/readyz/shutdown")[0] == 404


def test_the_answer_comes_when_the_last_check_has_ended(condition: Condition) -> None:
    condition.waiting = []
    exchange = ask(condition, "/readyz")
    for done in reversed(condition.waiting):
        assert not exchange.answers
        done()
    assert exchange.answers == [(200, "ok\n")]


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/readyz/non_learner"])
def test_pages_are_got_and_nothing_else(condition: Condition, path: str) -> None:
    for method in (b"POST", b"HEAD", b"DELETE"):
        assert answer(condition, path, method) == (405, "Method Not Allowed\n")


# --- access ---------------------------------------------------------------------


def request(host: str, *, secure: bool = False, origin: str | None = None) -> Request:
    headers = {b"host": host.encode()}
    if origin is not None:
        headers[b"origin"] = origin.encode()
    return Request(b"GET", "/", "", headers, secure)


@pytest.mark.parametrize(
    ("host", "name"),
    [("a", "a"), ("a:80", "a"), ("[::1]:2379", "::1"), ("[::1]", "::1"), ("::1", "::1"), ("", "")],
)
def test_a_host_is_named_without_its_port(host: str, name: str) -> None:
    assert request(host).host == name


def test_only_listed_hosts_may_be_asked_for_without_tls() -> None:
    """X15."""
    access = Access(hosts=("a", "::1"))
    assert access.refusal(request("a:2379")) is None
    assert access.refusal(request("[::1]:2379")) is None
    refused = access.refusal(request("b:1"))
    assert refused is not None
    assert refused.status == 421
    assert 'the host "b"' in refused.text
    assert access.refusal(request("b", secure=True)) is None
    assert Access().refusal(request("b")) is None
    assert Access(hosts=("a", "*")).refusal(request("b")) is None


def test_only_listed_origins_are_served_and_told_that_they_may() -> None:
    """X15."""
    access = Access(origins=("http://a",))
    listed, other = request("x", origin="http://a"), request("x", origin="http://b")
    assert (b"Access-Control-Allow-Origin", b"http://a") in access.fields(listed)
    assert access.refusal(listed) is None
    assert access.fields(other) == ()
    refused = access.refusal(other)
    assert refused is not None
    assert refused.status == 403
    assert '"http://b"' in refused.text
    assert access.fields(request("x")) == ()
    assert access.refusal(request("x")) is None


def test_all_origins_are_served_if_the_operator_says_so() -> None:
    everybody = Access(origins=("*",))
    stranger = request("x", origin="http://b")
    assert (b"Access-Control-Allow-Origin", b"*") in everybody.fields(stranger)
    assert everybody.refusal(stranger) is None


@pytest.mark.parametrize("host", ["127.0.0.1:2379", "[::1]:2379", "localhost:2379", "listed:1"])
def test_a_page_of_this_very_host_is_served(host: str) -> None:
    """X15: some clients of WebSockets name it; nobody else can serve a page from there."""
    access = Access(hosts=("listed", "*"))
    assert access.refusal(request(host, origin=f"http://{host}")) is None
    assert access.refusal(request(host, origin=f"https://{host}")) is not None
    assert access.refusal(request(host, origin="null")) is not None
    assert access.refusal(request(host, origin="")) is not None


def test_a_name_that_is_made_to_resolve_to_this_host_is_no_page_of_ours() -> None:
    """X15: DNS rebinding makes a foreign page same-origin; TLS proves the name."""
    access = Access()
    assert access.refusal(request("evil:1", origin="http://evil:1")) is not None
    assert access.refusal(request("ours:1", secure=True, origin="https://ours:1")) is None
