"""Makes the client library's synchronous face out of its asynchronous one.

    python scripts/generate_sync.py [--check] [DIRECTORY]

Every module of `raftkv/client/aio/` but `runtime.py` is rewritten token by token: `async` and
`await` go, names of the asynchronous protocol become those of the synchronous one, and
imports lead to `raftkv.client.sync`. Comments and docstrings are kept, with the same names
replaced in them. The result is formatted with ruff. `sync/runtime.py`, written by hand like
its twin, is what gives the rest threads instead of tasks.

--check writes nothing and fails when a file of the synchronous face is not what its source
makes, is missing, or has no source.
"""

import ast
import io
import re
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCE: Final = ROOT / "raftkv" / "client" / "aio"
TARGET: Final = ROOT / "raftkv" / "client" / "sync"
BY_HAND: Final = frozenset({Path("runtime.py")})
NOTE: Final = "# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.\n"

NAMES: Final = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "aclosing": "closing",
    "AsyncExitStack": "ExitStack",
    "AsyncGenerator": "Generator",
    "AsyncIterable": "Iterable",
    "AsyncIterator": "Iterator",
    "asynccontextmanager": "contextmanager",
    "StopAsyncIteration": "StopIteration",
    "aio": "sync",
    "anext": "next",
    "aiter": "iter",
}
# What docstrings say: code in them follows the names above, prose these.
PHRASES: Final = (
    (re.compile(r"\braftkv\.client\.aio import\b"), "raftkv.client import"),
    (re.compile(r"\braftkv\.client\.aio\b"), "raftkv.client.sync"),
    (re.compile(r"\b(async|await) (?=with\b|for\b|def\b|[a-z_]+[.(])"), ""),
)


def synchronous(source: str) -> str:
    """The synchronous twin of a module's text, not yet formatted."""
    pieces: list[str] = []
    row, column = 1, 0
    lines = source.splitlines(keepends=True)
    dropped = False  # `async` or `await`, and so the blanks behind it
    for token in _tokens(source, lines):
        if token.type in (tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            continue
        between = _text(lines, (row, column), token.start)
        pieces.append("" if dropped else between)
        dropped = token.type == tokenize.NAME and token.string in ("async", "await")
        if not dropped:
            pieces.append(_replaced(token))
        row, column = token.end
    return NOTE + "".join(pieces)


def _tokens(source: str, lines: list[str]) -> Iterator[tokenize.TokenInfo]:
    """The tokens, an f-string as one of them, which Python takes apart from 3.12 on."""
    start = getattr(tokenize, "FSTRING_START", -1)
    end = getattr(tokenize, "FSTRING_END", -1)
    depth, began = 0, (1, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == start:
            began = began if depth else token.start
            depth += 1
        elif token.type == end:
            depth -= 1
            if not depth:
                text = _text(lines, began, token.end)
                yield tokenize.TokenInfo(tokenize.STRING, text, began, token.end, token.line)
        elif not depth:
            yield token


def _text(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """What stands between two tokens: blanks and continued lines."""
    (row, column), (last_row, last_column) = start, end
    if row == last_row:
        return lines[row - 1][column:last_column] if row <= len(lines) else ""
    whole = [lines[row - 1][column:], *lines[row : last_row - 1]]
    if last_row <= len(lines):
        whole.append(lines[last_row - 1][:last_column])
    return "".join(whole)


def _replaced(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.NAME:
        return NAMES.get(token.string, token.string)
    if token.type in (tokenize.STRING, tokenize.COMMENT):
        text = token.string
        for pattern, replacement in PHRASES:
            text = pattern.sub(replacement, text)
        return text
    return token.string


def made() -> tuple[dict[Path, str], list[str]]:
    """The synchronous face: text by path below its directory; a line for each that failed."""
    files, wrong = {}, []
    for path in sorted(SOURCE.rglob("*.py")):
        relative = path.relative_to(SOURCE)
        if relative in BY_HAND:
            continue
        try:
            files[relative] = synchronous(path.read_text())
            ast.parse(files[relative])
        except (tokenize.TokenError, SyntaxError) as error:
            wrong.append(f"{path}: {error}")
            files.pop(relative, None)
    return formatted(files), wrong


def formatted(files: dict[Path, str]) -> dict[Path, str]:
    """The texts with sorted imports and in the project's format. Errors: CalledProcessError."""
    with tempfile.TemporaryDirectory() as name:
        # The same place below the root as in the tree, for ruff's settings go by paths.
        top = Path(name) / TARGET.relative_to(ROOT)
        for relative, text in files.items():
            (top / relative).parent.mkdir(parents=True, exist_ok=True)
            (top / relative).write_text(text)
        settings = ["--quiet", "--no-cache", "--config", str(ROOT / "pyproject.toml")]
        for command in (["check", "--select", "I", "--fix"], ["format"]):
            subprocess.run(
                [sys.executable, "-m", "ruff", *command, *settings, name], check=True, cwd=name
            )
        return {relative: (top / relative).read_text() for relative in files}


def differences(files: dict[Path, str], target: Path) -> list[str]:
    """What is wrong with the files below `target`, one line each."""
    wrong = []
    for relative, text in files.items():
        path = target / relative
        if not path.exists():
            wrong.append(f"{path}: missing")
        elif path.read_text() != text:
            wrong.append(f"{path}: not what its source makes")
    known = {*files, *BY_HAND}
    wrong += [
        f"{path}: has no source"
        for path in sorted(target.rglob("*.py"))
        if path.relative_to(target) not in known
    ]
    return wrong


def main(arguments: list[str]) -> int:
    """Writes or checks; returns the exit code."""
    check = "--check" in arguments
    places = [Path(argument) for argument in arguments if not argument.startswith("-")]
    target = places[0] if places else TARGET
    files, failed = made()
    if not check:
        for relative, text in files.items():
            path = target / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
    wrong = failed + differences(files, target)
    sys.stderr.writelines(line + "\n" for line in wrong)
    if wrong and check:
        sys.stderr.write("run: make proto\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
