"""The rows of `raftctl top`: two surveys make one row per member, and rows make text.

Rates come from two surveys of the same member; one that restarted in between (its counter fell)
has none. Lag is how many entries that the cluster has committed the member has still to apply:
the highest commit index that any member told minus the member's applied index. The answers are
not of one moment, so a small lag under load is the time between them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from raftkv.cli.surveying import Answer, MemberView, Survey

UNKNOWN: Final = "-"
_ROLES: Final = {"pre-candidate": "candid.", "candidate": "candid."}
# (heading, is text, at least this many columns on the screen to be shown)
_COLUMNS: Final = (
    ("NAME", True, 0),
    ("ROLE", True, 0),
    ("TERM", False, 0),
    ("REV", False, 0),
    ("LAG", False, 0),
    ("PUT/S", False, 0),
    ("GET/S", False, 0),
    ("SYNC99", False, 0),
    ("WATCH", False, 0),
    ("LEASE", False, 0),
    ("DB", False, 0),
    ("CONN", False, 92),
    ("RTT", False, 100),
    ("ENDPOINT", True, 126),
)
_SHORTEST_NAME: Final = 6


@dataclass(frozen=True, slots=True)
class Row:
    """One member; what it did not say is None. `problem` says why it said nothing."""

    id: str
    name: str
    endpoint: str
    role: str
    is_leader: bool
    problem: str
    term: int | None = None
    revision: int | None = None
    lag_entries: int | None = None
    puts_per_second: float | None = None
    gets_per_second: float | None = None
    log_sync_p99_us: int | None = None
    watchers: int | None = None
    leases: int | None = None
    db_bytes: int | None = None
    client_connections: int | None = None
    round_trip_us: int | None = None

    def tree(self) -> dict[str, Any]:
        """For JSON; rates with two decimals."""
        found = asdict(self)
        for name in ("puts_per_second", "gets_per_second"):
            if found[name] is not None:
                found[name] = round(found[name], 2)
        return found


def rows_of(before: Survey | None, now: Survey) -> list[Row]:
    """One row per member of `now`."""
    commit = max((one.reply.commit_index for one in now.answers), default=0)
    earlier = {one.id: one.answer for one in before.members} if before is not None else {}
    seconds = now.at_seconds - before.at_seconds if before is not None else 0.0
    rows = [_row(one, earlier.get(one.id), commit, seconds) for one in now.members]
    if not rows:  # nobody said who the members are
        rows = [
            Row("", endpoint, endpoint, "", False, reason)
            for endpoint, reason in now.unreachable.items()
        ]
    return rows


def _row(member: MemberView, earlier: Answer | None, commit: int, seconds: float) -> Row:
    answer = member.answer
    endpoint = answer.endpoint if answer is not None else next(iter(member.client_urls), "")
    if answer is None:
        return Row(f"{member.id:x}", member.label, endpoint, "", False, member.problem)
    reply = answer.reply
    counters = dict(reply.counters)
    past = dict(earlier.reply.counters) if earlier is not None else {}

    def rate(name: str) -> float | None:
        if name not in counters or name not in past or seconds <= 0:
            return None
        grown = counters[name] - past[name]
        return grown / seconds if grown >= 0 else None

    trips = [one.round_trip_us for one in reply.peers if one.connected and one.round_trip_us]
    return Row(
        id=f"{member.id:x}",
        name=member.label,
        endpoint=endpoint,
        role=reply.role,
        is_leader=reply.role == "leader",
        problem="",
        term=reply.header.raft_term,
        revision=reply.header.revision,
        lag_entries=max(commit - reply.applied_index, 0),
        puts_per_second=rate("puts_total"),
        gets_per_second=rate("ranges_total"),
        log_sync_p99_us=reply.log_sync.p99_us if reply.log_sync.count else None,
        watchers=counters.get("watchers"),
        leases=counters.get("leases"),
        db_bytes=reply.db_bytes,
        client_connections=counters.get("client_connections"),
        round_trip_us=max(trips) if trips else None,
    )


# --- text -----------------------------------------------------------------------


def short_count(number: float | None) -> str:
    """At most five columns: 999, 12.3k, 4.56M."""
    if number is None:
        return UNKNOWN
    for unit in ("", "k", "M", "G", "T"):
        if number < 1000:
            if not unit:
                return f"{number:.0f}"
            return f"{number:.2f}{unit}" if number < 10 else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.0f}P"


def short_bytes(count: int | None) -> str:
    """As 512B, 1.5M, 20G: binary units."""
    if count is None:
        return UNKNOWN
    size = float(count)
    for unit in ("B", "K", "M", "G", "T"):
        if size < 1024:
            return f"{size:.0f}{unit}" if unit == "B" or size >= 10 else f"{size:.1f}{unit}"
        size /= 1024
    return f"{size:.0f}P"


def short_time(microseconds: int | None) -> str:
    """As 850us, 3.2ms, 1.5s."""
    if microseconds is None:
        return UNKNOWN
    if microseconds < 1000:
        return f"{microseconds}us"
    if microseconds < 1_000_000:
        number = microseconds / 1000
        return f"{number:.1f}ms" if number < 100 else f"{number:.0f}ms"
    return f"{microseconds / 1e6:.1f}s"


def _cells(row: Row) -> list[str]:
    term = UNKNOWN if row.term is None else str(row.term)
    revision = UNKNOWN if row.revision is None else str(row.revision)
    if row.revision is not None and row.revision >= 10_000_000:
        revision = short_count(row.revision)
    return [
        row.name,
        _ROLES.get(row.role, row.role),
        term,
        revision,
        short_count(row.lag_entries),
        short_count(row.puts_per_second),
        short_count(row.gets_per_second),
        short_time(row.log_sync_p99_us),
        short_count(row.watchers),
        short_count(row.leases),
        short_bytes(row.db_bytes),
        short_count(row.client_connections),
        short_time(row.round_trip_us),
        row.endpoint,
    ]


def lines(rows: Sequence[Row], columns: int) -> list[str]:
    """Heading and rows as text, none wider than `columns` (if that is 80 at least)."""
    shown = [number for number, column in enumerate(_COLUMNS) if column[2] <= columns]
    cells = [_cells(row) for row in rows]
    widths = {}
    for number in shown:
        heading = _COLUMNS[number][0]
        texts = [cell[number] for cell, row in zip(cells, rows, strict=True) if not row.problem]
        widths[number] = max(map(len, (heading, *texts)))
    widths[0] = max([widths[0], *(len(row.name) for row in rows)])
    total = sum(widths.values()) + len(shown) - 1
    widths[0] = max(min(widths[0], widths[0] - (total - columns)), _SHORTEST_NAME)
    out = [_line([column[0] for column in _COLUMNS], shown, widths)]
    for row, texts in zip(rows, cells, strict=True):
        texts[0] = _shortened(texts[0], widths[0])
        if row.problem:
            out.append(f"{texts[0]:<{widths[0]}} unreachable: {row.problem}"[:columns])
        else:
            out.append(_line(texts, shown, widths)[:columns])
    return [line.rstrip() for line in out]


def _line(texts: Sequence[str], shown: Sequence[int], widths: dict[int, int]) -> str:
    return " ".join(
        f"{texts[number]:<{widths[number]}}"
        if _COLUMNS[number][1]
        else f"{texts[number]:>{widths[number]}}"
        for number in shown
    )


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"


def summary(rows: Sequence[Row]) -> str:
    """One line about all of them."""
    leader = next((row.name for row in rows if row.is_leader), "none")
    missing = sum(bool(row.problem) for row in rows)
    puts = sum(row.puts_per_second or 0 for row in rows)
    gets = sum(row.gets_per_second or 0 for row in rows)
    lost = f", {missing} unreachable" if missing else ""
    return (
        f"{len(rows)} member{'' if len(rows) == 1 else 's'}{lost}; leader {leader}; "
        f"{short_count(puts)} puts/s, {short_count(gets)} gets/s"
    )
