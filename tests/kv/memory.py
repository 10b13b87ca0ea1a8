"""The simplest backend that keeps the promises of `kv.backend`: a dict sorted on every scan."""

from collections.abc import Iterator

from raftkv.kv.backend import Row


class MemoryView:
    """Rows that never change."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self.rows = rows
        self.closed = False

    def get(self, key: bytes) -> bytes | None:
        assert not self.closed
        return self.rows.get(key)

    def seek(self, key: bytes) -> tuple[bytes, bytes] | None:
        assert not self.closed
        found = min((name for name in self.rows if name >= key), default=None)
        return None if found is None else (found, self.rows[found])

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        assert not self.closed
        for name in sorted((n for n in self.rows if start <= n < stop), reverse=reverse):
            yield name, self.rows[name]

    def close(self) -> None:
        self.closed = True


class MemoryBackend(MemoryView):
    """Counts its writes, so that a test can tell what was flushed together."""

    def __init__(self) -> None:
        super().__init__({})
        self.writes = 0
        self.views: list[MemoryView] = []

    def write(self, rows: list[Row]) -> None:
        self.writes += 1
        for key, value in rows:
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    def view(self) -> MemoryView:
        self.views.append(MemoryView(dict(self.rows)))
        return self.views[-1]

    def compact(self, start: bytes, stop: bytes) -> None:
        assert start < stop

    def sync(self) -> None:
        pass

    def size(self) -> int:
        return sum(len(key) + len(value) for key, value in self.rows.items())
