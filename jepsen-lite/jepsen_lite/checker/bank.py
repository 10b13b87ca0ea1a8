"""A bank: money moves between accounts, and their sum never changes.

Every read of all accounts must have the whole sum and no negative balance. Two reads at one
revision of the store must agree. And each balance is between what the answered transfers surely
made of it and what the others may have (`bounds`), if the balances at the beginning are known.
"""

from collections.abc import Mapping
from typing import Any

from jepsen_lite.checker.base import Evidence, Verdict
from jepsen_lite.checker.bounds import Bounds
from jepsen_lite.checker.findings import Findings
from jepsen_lite.checker.values import answer, asked, of_kind, place
from jepsen_lite.history import Call


class Bank:
    """See the module's docstring. f: "transfer" (from, to, amount) and "read" (accounts).

    total: the sum. initial: the balances at the beginning, if they are known. negative: a balance
    may be below 0.
    """

    def __init__(
        self, total: int, initial: Mapping[str, int] | None = None, negative: bool = False
    ) -> None:
        self._total = total
        self._initial = initial
        self._negative = negative

    def check(self, run: Evidence) -> Verdict:
        """Needs nothing but the history."""
        findings = Findings()
        calls = run.history.calls()
        transfers = list(of_kind(calls, "transfer"))
        reads = [
            (call, value) for call in of_kind(calls, "read") if (value := answer(call)) is not None
        ]
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
        if total != self._total:
            text = f"A read of all accounts has {total} in all, not {self._total}: {accounts}."
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
                        f"A read saw {balance} in account {name!r}; by the transfers answered before "
                        f"it and called until then it must be {low} to {high}."
                    )
                    ops = (call.invoke.index, place(call))
                    findings.add("lost-or-repeated-transfer", text, ops)


def _moved(call: Call) -> bool:
    """Was it answered, and not with the word that there was too little money?"""
    value = answer(call)
    return value is not None and value.get("succeeded") is not False
