"""/debug/pprof/, where --enable-pprof allows it: what this process is doing.

The paths are those of Go's net/http/pprof, which etcd serves; what they answer is text about a
Python process:

    /debug/pprof/                     which pages there are
    /debug/pprof/cmdline              the command line, its words separated by NUL
    /debug/pprof/goroutine            the stacks of threads and tasks; equal ones once (debug=1),
                                      or each by itself (debug=2)
    /debug/pprof/profile?seconds=30   a profile of so many seconds, see `server.profiling`

Go's other profiles (heap, allocs, block, mutex, threadcreate, trace, symbol) are unknown here.
"""

import asyncio
import sys
from collections.abc import Mapping
from functools import partial
from typing import Final
from urllib.parse import parse_qs

from raftkv.server import profiling, stacks
from raftkv.server.http.messages import OF_TEXT, Exchange, Fields, Receiver, Request, plain_error
from raftkv.server.http.site import Page

PATH: Final = "/debug/pprof/"
_DEFAULT_SECONDS: Final = 30.0
_HTML: Final[Fields] = ((b"Content-Type", b"text/html; charset=utf-8"), OF_TEXT[1])
_INDEX: Final = b"""\
<html>
<head>
<title>/debug/pprof/</title>
</head>
<body>
<p>Profiles of this process:</p>
<ul>
<li><a href="cmdline">cmdline</a>: the command line, its words separated by NUL</li>
<li><a href="goroutine?debug=1">goroutine</a>: what threads and tasks are doing, equal stacks once;
<a href="goroutine?debug=2">each by itself</a></li>
<li><a href="profile?seconds=30">profile</a>: where its threads are, looked at for 30 seconds, as
collapsed stacks for flame graphs</li>
</ul>
</body>
</html>
"""


class ProfilePages:
    """Those of a member.

    pages: by path; whatever else is below `PATH` is an unknown profile.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._profile: profiling.Profile | None = None  # the newest
        self.pages: Mapping[str, Page] = {
            PATH: _index,
            PATH + "cmdline": _cmdline,
            PATH + "goroutine": self._goroutine,
            PATH + "profile": self._open_profile,
        }

    def stopping(self) -> None:
        """The member is about to end: so is a profile."""
        if self._profile is not None:
            self._profile.finish()

    def _goroutine(self, exchange: Exchange, request: Request) -> None:
        found = stacks.threads() + stacks.tasks(self._loop)
        text = (stacks.each if _value(request, "debug") == "2" else stacks.grouped)(found)
        _tell(exchange, text)

    def _open_profile(self, exchange: Exchange, request: Request) -> Receiver | None:
        seconds = _seconds(request)
        if seconds > profiling.MAX_SECONDS:
            text = f"seconds may be at most {profiling.MAX_SECONDS:.0f}"
            exchange.respond(*plain_error(400, text))
            return None
        profile = profiling.begin(self._loop, seconds, partial(_tell, exchange))
        if profile is None:
            exchange.respond(*plain_error(503, "this process is being profiled already"))
            return None
        self._profile = profile
        return _Profiled(profile)


def _tell(exchange: Exchange, text: str) -> None:
    exchange.respond(200, OF_TEXT, text.encode("utf-8", "replace"))


def _index(exchange: Exchange, request: Request) -> None:
    if request.path == PATH:
        exchange.respond(200, _HTML, _INDEX)
    else:
        exchange.respond(*plain_error(404, "Unknown profile"))


def _cmdline(exchange: Exchange, request: Request) -> None:
    exchange.respond(200, OF_TEXT, "\0".join(sys.argv).encode("utf-8", "surrogateescape"))


def _value(request: Request, name: str) -> str:
    """Of a parameter behind the "?"; "" if it is not there."""
    return parse_qs(request.query).get(name, [""])[0]


def _seconds(request: Request) -> float:
    """How long to profile; what is no such time means the default, as in Go."""
    try:
        seconds = float(_value(request, "seconds"))
    except ValueError:
        return _DEFAULT_SECONDS
    return seconds if seconds > 0 else _DEFAULT_SECONDS


class _Profiled:
    """The receiver of a request for a profile: a client that goes away ends it."""

    streams = False
    lasting = True

    def __init__(self, profile: profiling.Profile) -> None:
        self._profile = profile

    def piece(self, data: bytes) -> None:
        """Of no interest."""

    def ended(self) -> None:
        """Of no interest."""

    def lost(self) -> None:
        """The client is gone."""
        self._profile.give_up()

    def writable(self) -> None:
        """All was written."""
