"""Unique ids: from the revision of a put, or from the version of a key behind a put."""

from typing import ClassVar

from jepsen_lite.checker.base import Checker
from jepsen_lite.generator import Context, Generator, Wish
from jepsen_lite.history import Op
from jepsen_lite.session import Session
from jepsen_lite.workload.base import Workload
from jepsen_lite.workload.calls import perform
from jepsen_lite.workload.judges import judges
from jepsen_lite.workload.steps import numbered


class Unique(Workload):
    """See the module's docstring."""

    name: ClassVar[str] = "unique"
    summary: ClassVar[str] = "ids that nobody else has, from revisions and versions"

    def generator(self) -> Generator:
        """Ids of both kinds, on a few keys."""
        return numbered(self._next)

    def _next(self, number: int, context: Context) -> Wish:
        random = context.random
        name = f"{self.prefix}u{int(random.random() * max(self.options.keys, 1))}"
        kind = "revision" if random.random() < 0.5 else "version"
        return {"f": "generate", "value": {"key": name, "kind": kind, "value": f"u{number}"}}

    async def invoke(self, session: Session, op: Op) -> Op:
        """One put, or a transaction of a put and a read behind it."""
        name, value = op.value["key"], op.value["value"]
        if op.value["kind"] == "revision":
            made = await perform(session, {"f": "put", "key": name, "value": value})
            number = f"r{made['revision']}"
        else:
            made = await perform(
                session,
                {
                    "f": "txn",
                    "compares": [],
                    "success": [["put", name, value], ["get", name]],
                    "failure": [],
                },
            )
            number = f"{name}:v{made['responses'][1]['version']}"
        return op.done(
            "ok", {**op.value, "id": number, "revision": made["revision"], "calls": [made]}
        )

    def checkers(self) -> dict[str, Checker]:
        """Whether no id came twice, and the revision witness."""
        return judges("unique", "witness")
