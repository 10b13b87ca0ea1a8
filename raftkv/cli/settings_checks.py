"""Doctor's checks of how members were started: what must agree, and what is left open.

Settings that differ are judged over the members that answered; what a member listens on is
judged for each. An address is local if it is of the loopback or the name localhost.
"""

import ipaddress
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlsplit

from raftkv.cli.findings import NOTE, WARNING, Finding
from raftkv.cli.surveying import MemberView, Survey
from raftkv.pb import inspect_pb2

Inspected = inspect_pb2.InspectResponse

# field of Settings -> (flag, severity, what comes of different values)
MUST_AGREE: Final = {
    "election_timeout_ms": (
        "--election-timeout",
        WARNING,
        "The shortest one stands for election too early, again and again.",
    ),
    "heartbeat_interval_ms": (
        "--heartbeat-interval",
        WARNING,
        "A leader that beats more slowly than others expect is replaced.",
    ),
    "max_request_bytes": (
        "--max-request-bytes",
        WARNING,
        "The same request succeeds at one member and fails at another.",
    ),
    "snapshot_count": ("--snapshot-count", NOTE, "Members checkpoint at different paces."),
    "auto_compaction_seconds": (
        "--auto-compaction-retention",
        WARNING,
        "How much history is kept changes with the leader.",
    ),
    "auto_compaction_revisions": (
        "--auto-compaction-retention",
        WARNING,
        "How much history is kept changes with the leader.",
    ),
}


def is_local(url: str) -> bool:
    """Does nobody but this machine reach it?"""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_plain(url: str) -> bool:
    return urlsplit(url).scheme == "http"


def _told(survey: Survey) -> list[tuple[MemberView, Inspected]]:
    return [
        (one, one.answer.reply)
        for one in survey.members
        if one.answer is not None and one.answer.complete
    ]


def _versions(survey: Survey) -> Iterator[Finding]:
    by_version: dict[str, list[str]] = {}
    for member in survey.members:
        if member.answer is not None:
            by_version.setdefault(member.answer.reply.version, []).append(member.label)
    if len(by_version) > 1:
        listed = "; ".join(f"{key}: {', '.join(names)}" for key, names in by_version.items())
        yield Finding(
            WARNING,
            "version",
            f"members run different versions ({listed})",
            "Finish the upgrade, one member at a time, or go back on the upgraded ones.",
        )


def _agreement(survey: Survey) -> Iterator[Finding]:
    told = _told(survey)
    for name, (flag, severity, consequence) in MUST_AGREE.items():
        values: dict[int, list[str]] = {}
        for member, reply in told:
            values.setdefault(getattr(reply.settings, name), []).append(member.label)
        if len(values) > 1:
            listed = "; ".join(f"{key}: {', '.join(names)}" for key, names in values.items())
            yield Finding(
                severity,
                "settings",
                f"members have different {flag} ({name}: {listed})",
                f"{consequence} Start all members with the same value.",
            )


def _loopback(survey: Survey) -> Iterator[Finding]:
    told = _told(survey)
    if len(survey.members) < 2:
        return
    advertised = [url for member in survey.members for url in member.peer_urls]
    if advertised and all(map(is_local, advertised)):
        yield Finding(
            NOTE,
            "settings",
            "all members are on one machine: its loss is the loss of the cluster",
            "Good for trying things; for real use put members on machines of their own.",
        )
        return
    for member, reply in told:
        listens = reply.settings.listen_peer_urls
        if listens and all(map(is_local, listens)):
            yield Finding(
                WARNING,
                "settings",
                f"{member.label} listens for peers on the loopback only "
                f"({', '.join(listens)}), but members are elsewhere",
                "Start it with a --listen-peer-urls that the others can reach.",
            )
        urls = reply.settings.advertise_client_urls
        if urls and all(map(is_local, urls)):
            yield Finding(
                WARNING,
                "settings",
                f"{member.label} tells clients to come to {', '.join(urls)}, which only its "
                "own machine can",
                "Start it with an --advertise-client-urls that clients can reach.",
            )


def _encryption(survey: Survey) -> Iterator[Finding]:
    for member, reply in _told(survey):
        given = reply.settings
        for side, urls, required in (
            ("client", given.listen_client_urls, given.client_certificates_required),
            ("peer", given.listen_peer_urls, given.peer_certificates_required),
        ):
            remote = [url for url in urls if not is_local(url)]
            plain = [url for url in remote if _is_plain(url)]
            prefix = "" if side == "client" else "peer-"
            if plain:
                yield Finding(
                    WARNING,
                    "tls",
                    f"{member.label} serves {side}s without TLS at {', '.join(plain)}",
                    f"Use https:// URLs with --{prefix}cert-file and --{prefix}key-file, or "
                    "listen on the loopback: anybody in the network reads and writes here.",
                )
            elif remote and not required:
                yield Finding(
                    NOTE if side == "client" else WARNING,
                    "tls",
                    f"{member.label} asks {side}s for no certificate",
                    f"Set --{prefix}client-cert-auth and --{prefix}trusted-ca-file, so that "
                    f"only {side}s that you know get in.",
                )


CHECKS: Final[tuple[Callable[[Survey], Iterator[Finding]], ...]] = (
    _versions,
    _agreement,
    _loopback,
    _encryption,
)
