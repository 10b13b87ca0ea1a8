"""What watch, cache and compaction share: keys that are written in every way, and watches on them.

The keys are few, so that they are put, deleted, made again and changed several at a time. Watches
ask for random ranges, starts, kinds and options; one that ended may be resumed by the next
operation of its process, from behind the last revision that it has seen.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Final, NamedTuple

from jepsen_lite.checker.base import Anomaly, Evidence, Fact, Verdict
from jepsen_lite.generator import Context, Generator, Wish, limit, until_ok
from jepsen_lite.history import Call, Op
from jepsen_lite.session import Session
from jepsen_lite.workload.base import Workload
from jepsen_lite.workload.calls import end_of, perform
from jepsen_lite.workload.steps import latest_revision, learning, numbered
from jepsen_lite.workload.watching import record

KEYS: Final = 24
SHORTEST_SECONDS: Final = 0.1  # of a watch
LONGEST_SHARE: Final = 0.5  # of an operation's time
LAST_EVENTS: Final = 2000  # that the last watches go back
LARGEST_TXN: Final = 6
MOST_BESIDE: Final = 6  # other watches on the stream of one
LAST_WATCHES: Final = 5  # attempts


class Watched(NamedTuple):
    """What the watchers of a thread know.

    latest: the newest revision that they have heard of. name, asked, following: of a watch that
    may be resumed from `following`; name "" = none.
    """

    latest: int = 0
    name: str = ""
    asked: dict[str, Any] | None = None
    following: int = 0


class Churn(Workload):
    """See the module's docstring."""

    reads: ClassVar[frozenset[str]] = frozenset({"get", "range", "watch", "cache"})

    #: Revisions behind the newest at which watches begin, at most.
    oldest: ClassVar[int] = 600

    @property
    def _asks_progress(self) -> bool:
        """Not with --set progress=off: etcd up to 3.5.7 answers ahead of events."""
        return self.options.extra.get("progress") != "off"

    def key(self, number: int) -> str:
        """A key of the churn."""
        return f"{self.prefix}k{number:02}"

    def to_be_seen(self) -> dict[str, Sequence[str]]:
        """Notices of progress come too rarely by themselves."""
        found = super().to_be_seen()
        if "watch" in found and not self._asks_progress:
            found["watch"] = [fact for fact in found["watch"] if fact != "bookmarks"]
        return found

    # --- writes ---------------------------------------------------------------------------
    def writes(self) -> Generator:
        """Puts, deletions and transactions of several of both."""
        return learning(self.write, latest_revision, 0)

    def write(self, number: int, latest: int, context: Context) -> Wish:
        """One of them."""
        random = context.random
        lot = random.random()
        key = self.key(int(random.random() * KEYS))
        if lot < 0.5:
            return {"f": "put", "value": {"key": key, "value": f"p{number}"}}
        if lot < 0.65:
            return {"f": "delete", "value": {"key": key}}
        if lot < 0.7:
            end = self.key(int(random.random() * KEYS) + 1)
            first, last = min(key, end), max(key, end)
            return {"f": "delete", "value": {"key": first, "end": last}}
        picked = random.sample(range(KEYS), 2 + int(random.random() * (LARGEST_TXN - 1)))
        operations = [
            ["put", self.key(one), f"t{number}.{one}"]
            if random.random() < 0.7
            else ["delete", self.key(one)]
            for one in picked
        ]
        compares = [] if random.random() < 0.7 else [[key, "create_revision", ">", 0]]
        value = {"compares": compares, "success": operations, "failure": [["get", key]]}
        return {"f": "txn", "value": value}

    # --- watches --------------------------------------------------------------------------
    def watches(self) -> Generator:
        """For each_process: watches, some of which go on where the one before ended."""
        return learning(self._watch, _watched, Watched())

    def _watch(self, number: int, watched: Watched, context: Context) -> Wish:
        random = context.random
        longest = self.options.timeout_seconds * LONGEST_SHARE
        value: dict[str, Any] = {
            "seconds": round(SHORTEST_SECONDS + random.random() ** 2 * longest, 2),
            "cancel": random.random() < 0.3,
            "ask_progress": random.random() < 0.3 and self._asks_progress,
        }
        if watched.name and watched.asked is not None and random.random() < 0.6:
            asked = {**watched.asked, "start_revision": watched.following}
            return {"f": "watch", "value": {**value, "name": watched.name, "asked": asked}}
        value["name"] = f"w{context.free[0]}.{number}"
        value["asked"] = self._asked(watched.latest, context)
        beside = int(random.random() ** 3 * MOST_BESIDE)
        if beside:
            others = [self._asked(watched.latest, context) for _ in range(beside)]
            value["beside"] = [{"asked": asked} for asked in others]
        return {"f": "watch", "value": value}

    def _asked(self, latest: int, context: Context) -> dict[str, Any]:
        random = context.random
        first = int(random.random() * KEYS)
        asked: dict[str, Any] = {"key": self.key(first)}
        lot = random.random()
        if lot < 0.5:
            asked = {"key": f"{self.prefix}k", "end": end_of(f"{self.prefix}k")}
        elif lot < 0.8:
            asked["end"] = self.key(first + 1 + int(random.random() * (KEYS - first)))
        lot = random.random()
        if latest and lot < 0.5:
            asked["start_revision"] = max(1, latest - int(random.random() ** 3 * self.oldest))
        elif latest and lot < 0.6:
            asked["start_revision"] = latest + 1 + int(random.random() * 20)
        for option, share in (("prev_kv", 0.4), ("no_put", 0.1), ("no_delete", 0.1)):
            if random.random() < share:
                asked[option] = True
        if random.random() < 0.3:
            asked["fragment"] = True
        return asked

    def last_watches(self) -> Generator:
        """After the faults: watches that must reach the present: the newest key that there is."""
        wish = {"f": "watch", "value": {"name": "last", "last": True}}
        return limit(LAST_WATCHES, until_ok(numbered(lambda number, _: _named(wish, number))))

    # --- doing it -------------------------------------------------------------------------
    async def invoke(self, session: Session, op: Op) -> Op:
        """Errors: ClientError."""
        if op.f == "watch":
            return await self._watching(session, op)
        answer = await perform(session, {"f": op.f, **op.value})
        del answer["f"]
        return op.done("ok", answer)

    async def _watching(self, session: Session, op: Op) -> Op:
        value = dict(op.value)
        until, seconds = 0, value.pop("seconds", 0.0)
        cancel, ask_progress = value.pop("cancel", False), value.pop("ask_progress", False)
        if value.pop("last", False):
            first, end = f"{self.prefix}k", end_of(f"{self.prefix}k")
            found = await perform(session, {"f": "range", "key": first, "end": end})
            until = max((kv["mod_revision"] for kv in found["kvs"]), default=1)
            seconds = self.options.timeout_seconds * 0.8
            start = max(1, found["revision"] - LAST_EVENTS)
            value["asked"] = {"key": first, "end": end, "start_revision": min(start, until)}
            value["until"] = until
            ask_progress = self._asks_progress  # while it catches up: a promise easily broken
        others = value.pop("beside", [])
        recording, *beside = await record(
            session,
            [value["asked"], *(other["asked"] for other in others)],
            seconds,
            until=until,
            cancel=cancel,
            ask_progress=ask_progress,
        )
        if until and recording.seen < until and not recording.cancelled:
            text = f"it has come to revision {recording.seen} only, not to {until}"
            return op.done("fail", {**value, "received": recording.received}, error=text)
        asked_to_end = {"cancel_asked": True} if cancel else {}
        value.update(received=recording.received, **asked_to_end)
        if beside:
            value["beside"] = [
                {**other, "received": one.received, **asked_to_end}
                for other, one in zip(others, beside, strict=False)
            ]
        return op.done("ok", value, error=recording.trouble)


class CaughtUp:
    """Whether a watch has reached the present after every fault was healed."""

    def check(self, run: Evidence) -> Verdict:
        """Undecided if the run did not come that far."""
        last = [call for call in run.history.calls() if "until" in _last(call)]
        tried = [call for call in run.history.calls() if _last(call).get("last")]
        facts: dict[str, Fact] = {"last watches": len(tried)}
        if not tried:
            return Verdict(False, undecided=True, facts=facts)
        if any(call.ok for call in last):
            return Verdict(True, facts=facts)
        text = "After the faults no watch has come to the store's revision."
        ops = tuple(call.end.index for call in tried if call.end is not None)
        return Verdict(False, facts=facts, anomalies=[Anomaly("watch-stuck", text, ops)])


def _last(call: Call) -> dict[str, Any]:
    """What a last watch asked for and was answered, as one; empty for other operations."""
    if call.invoke.f != "watch" or not call.invoke.value.get("last"):
        return {}
    end = call.end.value if call.end is not None else {}
    return {**call.invoke.value, **end}


def _named(wish: Wish, number: int) -> Wish:
    return {**wish, "value": {**wish["value"], "name": f"last{number}"}}


def _watched(watched: Watched, event: Op) -> Watched:
    """What the end of a watch tells the thread that made it."""
    if event.type == "invoke" or event.f != "watch":
        return watched
    if event.type != "ok":
        return watched._replace(name="")
    value = event.value
    following, latest, over = value["asked"].get("start_revision", 0), watched.latest, False
    for kind, *rest in value["received"]:
        if kind == "created":
            latest = max(latest, rest[0])
            following = following or rest[0] + 1
        elif kind == "events":
            following = max(following, rest[0][-1]["mod_revision"] + 1)
        elif kind == "progress":
            following = max(following, rest[0] + 1)
        else:
            over = True
    latest = max(latest, following - 1)
    return Watched(latest, "" if over else value["name"], value["asked"], following)
