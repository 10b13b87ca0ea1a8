"""Tables with ASCII rules, laid out as etcdctl's.

+----------+---------+
| ENDPOINT |  HASH   |      headings centred, the spare blank to the right
+----------+---------+
| a:2379   | 1234567 |      cells flush right; long cells broken at blanks
+----------+---------+
"""

import unicodedata
from collections.abc import Sequence
from typing import Final

WRAP_COLUMNS: Final = 30


def _width(text: str) -> int:
    """Columns on a terminal: wide characters take two."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _wrap(text: str) -> list[str]:
    """Lines of at most WRAP_COLUMNS where blanks allow it, as even as possible.

    Minimizes the sum of squared spare columns over all lines but the last.
    """
    words = text.split()
    if not words or _width(text) <= WRAP_COLUMNS:
        return text.splitlines() or [""]
    limit = max(WRAP_COLUMNS, *map(_width, words))
    count = len(words)
    cost = [0] * (count + 1)  # of the best layout of words[i:]
    end = [count] * count
    for start in range(count - 1, -1, -1):
        best = None
        line = -1
        for stop in range(start + 1, count + 1):
            line += 1 + _width(words[stop - 1])
            if line > limit:
                break
            here = 0 if stop == count else (limit - line) ** 2 + cost[stop]
            if best is None or here < best:
                best, end[start] = here, stop
        assert best is not None, "one word always fits"
        cost[start] = best
    lines, start = [], 0
    while start < count:
        lines.append(" ".join(words[start : end[start]]))
        start = end[start]
    return lines


def render(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The whole table, with a line end after each line."""
    cells = [[_wrap(cell) for cell in row] for row in rows]
    widths = [_width(heading) for heading in headings]
    for row in cells:
        for column, lines in enumerate(row):
            widths[column] = max(widths[column], *map(_width, lines))
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    out = [rule, _line([_centred(*pair) for pair in zip(headings, widths, strict=True)]), rule]
    for row in cells:
        for number in range(max(map(len, row))):
            texts = [lines[number] if number < len(lines) else "" for lines in row]
            out.append(
                _line(
                    [
                        " " * (width - _width(text)) + text
                        for text, width in zip(texts, widths, strict=True)
                    ]
                )
            )
    out.append(rule)
    return "\n".join(out) + "\n"


def _centred(text: str, width: int) -> str:
    left = (width - _width(text)) // 2
    return " " * left + text + " " * (width - _width(text) - left)


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"
