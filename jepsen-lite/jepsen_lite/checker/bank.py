"""A bank: money moves between accounts, and their sum never changes.

Every read of all accounts must have the whole sum and no negative balance. Two reads at one
revision of the store must agree. And each balance is between what the answered transfers surely
made of it and what the others may have (`bounds`), if the balances at the beginning are known:
from who makes the checker, or from the transaction behind the operation that opened the accounts.
"""

from collections.abc import Mapping
from typing import Any

from jepsen_lite.checker.base import Evidence, Verdict
from jepsen_lite.checker.bounds import Bounds
from jepsen_lite.checker.findings import Findings
from jepsen_lite.checker.values import answer, asked, of_kind, place
from jepsen_lite.history import Call


class Bank:
    """See the module's docstring. f: "transfer" (from, to, amount), "read" (accounts), "open".

    initial: the balances at the beginning; None: those of "open". negative: a balance may be below
    0. Without balances at the beginning the sum is that of the first read.
    """

    def __init__(self, initial: Mapping[str, int] | None = None, negative: bool = False) -> None:
        self._initial = initial
        self._negative = negative

    def check(self, run: Evidence) -> Verdict:
        """Needs nothing but the history."""
        calls = run.history.calls()
        initial = self._initial or _opened(calls)
        reads = [
            (call, value)
            for call in of_kind(calls, "read")
            if (value := answer(call)) is not None
            # Before the accounts are opened there are none.
            and (value["accounts"] or not any(of_kind(calls, "open")))
        ]
        judge = _Reads(initial, self._negative)
        if initial is None and reads:
            judge.total = sum(reads[0][1]["accounts"].values())
        return judge.verdict(list(of_kind(calls, "transfer")), reads)


def _opened(calls: list[Call]) -> dict[str, int] | None:
    """The balances that the answered opening wrote, or found written."""
    for call in of_kind(calls, "open"):
        for one in (answer(call) or {}).get("calls", ()):
            return {op[1]: int(op[2]) for op in one["success"] if op[0] == "put"}
    return None


class _Reads:
    def __init__(self, initial: Mapping[str, int] | None, negative: bool) -> None:
        self._initial = initial
        self._negative = negative
        self.total = sum(initial.values()) if initial else 0

    def verdict(self, transfers: list[Call], reads: list[tuple[Call, dict[str, Any]]]) -> Verdict:
        """Over all reads."""
        findings = Findings()
        at: dict[int, tuple[Call, dict[str, int]]] = {}
        for call, value in reads:
            accounts = value["accounts"]
            self._sums(call, accounts, findings)
            revision = value.get("revision")
            other = at.setdefault(revision, (call, accounts)) if revision else (call, accounts)
            if other[1] != accounts:
                text = f"Two reads at revision {revision} differ: {other[1]} and {accounts}."
                findings.add("unrepeatable-read", text, (place(other[0]), place(call)))
        if self._initial is not None and not findings.counts:
            self._balances(transfers, reads, findings)
        return findings.verdict(
            transfers=len(transfers),
            acknowledged=sum(_moved(call) for call in transfers),
            reads=len(reads),
        )

    def _sums(self, call: Call, accounts: dict[str, int], findings: Findings) -> None:
        total = sum(accounts.values())
        if total != self.total:
            text = f"A read of all accounts has {total} in all, not {self.total}: {accounts}."
            findings.add("wrong-total", text, (place(call),))
        below = {name: balance for name, balance in accounts.items() if balance < 0}
        if below and not self._negative:
            findings.add("negative-balance", f"A read saw {below}.", (place(call),))
        if self._initial is not None and accounts.keys() != self._initial.keys():
            text = f"A read saw the accounts {sorted(accounts)}, there are {sorted(self._initial)}."
            findings.add("wrong-accounts", text, (place(call),))

    def _balances(
        self, transfers: list[Call], reads: list[tuple[Call, dict[str, Any]]], findings: Findings
    ) -> None:
        assert self._initial is not None
        bounds = {name: Bounds(balance) for name, balance in self._initial.items()}
        for call in transfers:
            what = asked(call)
            if call.ok and not _moved(call):
                continue
            bounds[what["from"]].add(call, -what["amount"])
            bounds[what["to"]].add(call, what["amount"])
        for call, value in reads:
            if value.get("serializable"):
                continue
            for name, balance in value["accounts"].items():
                low, high = bounds[name].at(call)
                if not low <= balance <= high:
                    text = (
                        f"A read saw {balance} in account {name!r}; by the transfers answered "
                        f"before it and called until then it must be {low} to {high}."
                    )
                    ops = (call.invoke.index, place(call))
                    findings.add("lost-or-repeated-transfer", text, ops)


def _moved(call: Call) -> bool:
    """Was it answered, and not with the word that there was too little money?"""
    value = answer(call)
    return value is not None and value.get("succeeded") is not False
