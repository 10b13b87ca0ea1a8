"""Who may ask, before any page: the host whitelist and CORS (etcd's `accessController`).

Without TLS a page of the web could be served under a name that is later resolved to this
member's address, and its script would then be same-origin with it (CVE-2018-5702). So names
that the operator has not listed are refused; the default lists all, as etcd's does.
"""

from collections.abc import Iterable
from typing import Final

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


class Access:
    """origins: whose scripts may read answers (--cors). hosts: names that may be asked for
    without TLS (--host-whitelist). Empty, or with "*" in them: all.
    """

    def __init__(self, origins: Iterable[str] = (), hosts: Iterable[str] = ()) -> None:
        self._origins = frozenset(origins) or frozenset((ANY,))
        self._hosts = frozenset(hosts) or frozenset((ANY,))
        self._for_all = _cors(ANY) if ANY in self._origins else None

    def refusal(self, request: Request) -> str:
        """Why this host is not served; "" if it is."""
        if request.secure or ANY in self._hosts or request.host in self._hosts:
            return ""
        return _REBINDING % request.host

    def fields(self, request: Request) -> Fields:
        """What tells a browser whose scripts may read the answer."""
        if self._for_all is not None:
            return self._for_all
        origin = request.headers.get(b"origin", b"").decode("latin-1")
        return _cors(origin) if origin in self._origins else ()


def _cors(origin: str) -> Fields:
    return (_HEADERS, _METHODS, (b"Access-Control-Allow-Origin", origin.encode("latin-1")))
