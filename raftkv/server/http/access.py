"""Who may ask, before any page: the host whitelist, and scripts of the web (X15).

Any page that somebody looks at may send requests to addresses that this person can reach, and
without TLS it may be served under a name that is later resolved to this member's address, so that
its script is same-origin with it (CVE-2018-5702). But a browser says so: whatever could write or
open a WebSocket names the page's origin. So a request with an origin is refused unless

 * --cors lists the origin, or all ("*", which is etcd's default and not ours), or
 * the origin is the very host that is asked, and that is no name which somebody else may have made:
   an address, `localhost`, one of --host-whitelist, or one that TLS has proven.

Programs name no origin. --host-whitelist refuses names for them too; its default lists all.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final, NamedTuple

from raftkv.server.http.messages import Fields, Request

_METHODS: Final = (b"Access-Control-Allow-Methods", b"POST, GET, OPTIONS, PUT, DELETE")
_HEADERS: Final = (b"Access-Control-Allow-Headers", b"accept, content-type, authorization")
ANY: Final = "*"

_REBINDING: Final = """\
This member does not serve HTTP for the host "%s".
Name it in --host-whitelist, or ask over TLS.

Other names are refused so that no page of the web can reach this store under a name that is
made to resolve to it (DNS rebinding, CVE-2018-5702).
"""
_STRANGER: Final = """\
This member does not serve scripts of "%s".
Name that origin in --cors (or * for all of them).

Others are refused so that no page of the web can read or change this store through the browser of
somebody who can reach it.
"""


class Refusal(NamedTuple):
    """status: of HTTP. text: why, and what to do."""

    status: int
    text: str


class Access:
    """origins: whose scripts may use HTTP (--cors). hosts: names that may be asked for without TLS
    (--host-whitelist); none, or with "*" in them: all.
    """

    def __init__(self, origins: Iterable[str] = (), hosts: Iterable[str] = ()) -> None:
        self._origins = frozenset(origins)
        self._hosts = frozenset(hosts) or frozenset((ANY,))
        self._for_all = _cors(ANY) if ANY in self._origins else None

    def refusal(self, request: Request) -> Refusal | None:
        """Why a request is not served; None if it is."""
        if not (request.secure or ANY in self._hosts or request.host in self._hosts):
            return Refusal(421, _REBINDING % request.host)
        origin = request.headers.get(b"origin")
        if origin is None or self._for_all is not None:
            return None
        name = origin.decode("latin-1")
        if name in self._origins or self._is_our_own(name, request):
            return None
        return Refusal(403, _STRANGER % name)

    def fields(self, request: Request) -> Fields:
        """What tells a browser whose scripts may read the answer."""
        if self._for_all is not None:
            return self._for_all
        origin = request.headers.get(b"origin", b"").decode("latin-1")
        return _cors(origin) if origin in self._origins else ()

    def _is_our_own(self, origin: str, request: Request) -> bool:
        asked = request.headers.get(b"host", b"").decode("latin-1")
        if origin != f"{'https' if request.secure else 'http'}://{asked}":
            return False
        host = request.host
        return request.secure or host in self._hosts or host == "localhost" or _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _cors(origin: str) -> Fields:
    return (_HEADERS, _METHODS, (b"Access-Control-Allow-Origin", origin.encode("latin-1")))
