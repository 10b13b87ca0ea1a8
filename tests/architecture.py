"""The rules of raftkv/README.md's table, as data, and the checks that apply them to source text.

Every check takes a parsed module and returns findings, one line each, so that the
tests can run it over the tree and also over small pieces of wrong code.

The check for iteration over sets is a heuristic: it knows a set by how a name is
annotated or assigned in the same module, not by inference across modules.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = ROOT / "raftkv"
JEPSEN: Final = ROOT / "jepsen-lite" / "jepsen_lite"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STDLIB: Final = frozenset(sys.stdlib_module_names)

# What makes a result depend on anything but the arguments.
IMPURE: Final = _words(
    "asyncio concurrent datetime glob io logging multiprocessing os pathlib queue sched secrets"
    " select selectors shutil signal socket socketserver ssl subprocess tempfile threading time"
    " uuid"
)
# The simulator writes to real LevelDB at times and reports on a terminal, but never waits.
UNSIMULATED: Final = _words("asyncio concurrent selectors socket threading")

FILE_LINES: Final = 500
FUNCTION_LINES: Final = 80


@dataclass(frozen=True)
class Room:
    """One row of the table.

    inside: raftkv modules (dotted, without the package) it may import besides its own.
    lazily: those it may import only inside a function.
    outside: third-party top-level packages.
    banned: standard library modules it may not import.
    pure: the determinism rules hold.
    """

    inside: frozenset[str] = frozenset()
    lazily: frozenset[str] = frozenset()
    outside: frozenset[str] = frozenset()
    banned: frozenset[str] = frozenset()
    pure: bool = False


ROOMS: Final = {
    "__init__": Room(),
    "errors": Room(),
    "limits": Room(),
    "histogram": Room(),
    "config": Room(inside=_words("errors limits"), outside=_words("yaml")),
    "raft": Room(inside=_words("errors limits"), banned=IMPURE, pure=True),
    "kv": Room(
        inside=_words("raft.types raft.membership errors limits pb"),
        outside=_words("sortedcontainers google"),
        banned=IMPURE,
        pure=True,
    ),
    "replica": Room(inside=_words("raft kv wire.record errors limits"), banned=IMPURE, pure=True),
    "wire": Room(
        inside=_words("raft.messages raft.types errors histogram limits"),
        outside=_words("hpack"),
        banned=IMPURE,
        pure=True,
    ),
    "storage": Room(
        inside=_words("raft.types wire.record kv.backend errors histogram limits"),
        outside=_words("plyvel"),
        banned=_words("asyncio"),
    ),
    "sim": Room(
        inside=_words("raft kv replica storage wire errors limits"),
        outside=_words("click"),
        banned=UNSIMULATED,
    ),
    "server": Room(
        inside=_words("config errors histogram limits raft kv replica wire storage pb"),
        outside=_words("uvloop google httptools prometheus_client wsproto"),
    ),
    "client": Room(inside=_words("pb errors"), outside=_words("grpc google")),
    "testing": Room(
        inside=_words("server config errors limits wire pb"),
        lazily=_words("cli"),
        outside=_words("google uvloop pytest"),
    ),
    "cli": Room(
        inside=_words("client config pb errors limits"),
        lazily=_words("server"),
        outside=_words("click grpc google rich yaml uvloop"),
    ),
    "__main__": Room(inside=_words("cli")),
    "pb": Room(outside=_words("google grpc")),
}

# The rooms of jepsen_lite; `raftkv` names what they may import of it. "" = its plain modules.
_CLIENT: Final = "client errors pb"
# Who may import the launcher's package: its client's end, and the table of variants.
LAUNCHERS: Final = _words("member target mutants scenarios teeth")
JEPSEN_ROOMS: Final = {
    "history": Room(inside=_words("errors"), banned=_words("asyncio threading random time")),
    "generator": Room(
        banned=_words("asyncio concurrent threading time os socket subprocess"), pure=True
    ),
    "checker": Room(
        inside=_words("errors sim kv.encoding kv.events"),
        banned=_words("asyncio socket subprocess"),
    ),
    "workload": Room(inside=_words(_CLIENT)),
    "nemesis": Room(inside=_words(f"{_CLIENT} testing")),
    "target": Room(
        inside=_words(
            f"{_CLIENT} config testing sim replica"
            " kv.audience kv.commands kv.events kv.fragments kv.leases kv.watches"
        ),
        outside=_words("google grpc"),
    ),
    "report": Room(banned=_words("asyncio socket urllib http")),
    "member": Room(
        inside=_words("cli errors histogram kv raft replica server sim storage"),
        outside=_words("click uvloop"),
    ),
    "": Room(inside=_words(f"{_CLIENT} sim"), outside=_words("click grpc")),
}


def room_of(module: str) -> str:
    """The room of a dotted module name inside the package ("raft.core" -> "raft")."""
    return module.partition(".")[0]


def sources() -> Iterator[tuple[str, Path]]:
    """Every hand-written module of the package: (dotted name inside it, path)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[0] == "pb" and parts[-1] != "__init__":
            continue
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        yield ".".join(parts), path


def jepsen_sources() -> Iterator[tuple[str, Path]]:
    """Every module of jepsen_lite: (dotted name inside it, path)."""
    for path in sorted(JEPSEN.rglob("*.py")):
        parts = list(path.relative_to(JEPSEN).with_suffix("").parts)
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        yield ".".join(parts), path


def jepsen_findings(module: str, tree: ast.Module) -> list[str]:
    """Imports that the row of a module of jepsen_lite does not allow."""
    name = room_of(module)
    room = JEPSEN_ROOMS.get(name, JEPSEN_ROOMS[""])
    found = []
    for imported, node in _imports(tree):
        top, _, rest = imported.partition(".")
        if top == "jepsen_lite":
            allowed = not rest.startswith("member") or name in LAUNCHERS
        elif top == "raftkv":
            # A name of a room itself ("raftkv.sim") stands for what is imported from it.
            allowed = rest in ("", "__version__") or _under(rest, room.inside)
        elif top in STDLIB:
            allowed = top not in room.banned
        else:
            allowed = imported != "." and top in room.outside
        if not allowed:
            found.append(f"jepsen_lite.{module}:{node.lineno}: imports {imported}")
    return found


def _inside_functions(tree: ast.Module) -> set[int]:
    """ids of all nodes that lie in a function's body."""
    return {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(outer)
        if inner is not outer
    }


def _imports(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield ".", node
            elif node.module in ("raftkv", "raftkv.pb"):
                for alias in node.names:
                    yield f"{node.module}.{alias.name}", node
            else:
                assert node.module is not None
                yield node.module, node


def _under(module: str, allowed: frozenset[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in allowed)


def import_findings(module: str, tree: ast.Module) -> list[str]:
    """Imports that the room's row does not allow; plyvel outside the LevelDB files."""
    room = ROOMS[room_of(module)]
    in_function = _inside_functions(tree)
    found = []
    for name, node in _imports(tree):
        top, _, rest = name.partition(".")
        if name == ".":
            reason = "relative import"
        elif top == "raftkv":
            if room_of(rest) == room_of(module) or room_of(rest) not in ROOMS:
                continue  # its own room, or a name of raftkv/__init__.py
            if _under(rest, room.inside):
                continue
            if _under(rest, room.lazily):
                if id(node) in in_function:
                    continue
                reason = "only inside a function"
            else:
                reason = "not in its row"
        elif top in STDLIB:
            if top not in room.banned:
                continue
            reason = "banned here"
        elif top not in room.outside:
            reason = "not in its row"
        elif top == "plyvel" and not module.startswith("storage.leveldb"):
            reason = "only the LevelDB files import it"
        else:
            continue
        found.append(f"{module}:{node.lineno}: imports {name}: {reason}")
    return found


def form_findings(module: str, tree: ast.Module) -> list[str]:
    """Bare except anywhere; print outside what talks to a terminal; functions too long."""
    talks = room_of(module) in ("cli", "__main__") or module.endswith("__main__")
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{module}:{node.lineno}: bare except")
        elif isinstance(node, ast.Call) and _called(node) == "print" and not talks:
            found.append(f"{module}:{node.lineno}: print")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = _body_lines(node)
            if lines > FUNCTION_LINES:
                found.append(f"{module}:{node.lineno}: {node.name} has {lines} lines")
    return found


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    lines = node.end_lineno - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is not None:
        assert first.end_lineno is not None
        lines -= first.end_lineno - first.lineno + 1
    return lines


def _called(node: ast.expr) -> str:
    """Name of a plainly called function ("sorted"), else the empty string."""
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""


def purity_findings(module: str, tree: ast.Module) -> list[str]:
    """What makes two runs differ: own randomness, hash order, and in kv/ floats."""
    found = []
    for node in ast.walk(tree):
        reason = _randomness(node)
        if isinstance(node, ast.Call) and _called(node) in ("hash", "id"):
            reason = f"{_called(node)}() differs from process to process"
        elif room_of(module) == "kv":
            if isinstance(node, ast.Constant) and isinstance(node.value, float):
                reason = "float"
            elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
                reason = "true division makes a float"
            elif isinstance(node, ast.Call) and _called(node) == "float":
                reason = "float"
        if reason:
            found.append(f"{module}:{getattr(node, 'lineno', 0)}: {reason}")
    found.extend(SetIteration(tree).findings(module))
    return found


def _randomness(node: ast.AST) -> str:
    """Why a node draws numbers that no argument brought in, else the empty string."""
    if isinstance(node, ast.ImportFrom) and node.module == "random":
        if [alias.name for alias in node.names] != ["Random"]:
            return "of random only the type Random may be imported"
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if node.value.id == "random" and node.attr != "Random":
            return f"random.{node.attr} draws from a hidden generator"
    elif isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else _called(node)
        if called == "Random":
            return "a Random comes in as an argument"
    return ""


class SetIteration:
    """Finds loops whose order is a set's.

    A comprehension is fine when what consumes it does not care for order.
    """

    ORDER_FREE: Final = _words("sorted len min max sum any all set frozenset")
    ORDERED: Final = _words("list tuple enumerate iter next zip map filter deque")
    SET_TYPES: Final = _words("set frozenset Set AbstractSet MutableSet")

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._names: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign):
                self._learn(node.target, self._is_set_type(node.annotation))
            elif isinstance(node, ast.arg) and node.annotation is not None:
                if self._is_set_type(node.annotation):
                    self._names.add(node.arg)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    self._learn(target, self._is_set(node.value))

    def _learn(self, target: ast.expr, known: bool) -> None:
        if known and isinstance(target, ast.Name):
            self._names.add(target.id)
        elif known and isinstance(target, ast.Attribute):
            self._names.add("." + target.attr)
            self._names.add("." + target.attr.lstrip("_"))

    def _is_set_type(self, annotation: ast.expr) -> bool:
        if isinstance(annotation, ast.Subscript):
            annotation = annotation.value
        if isinstance(annotation, ast.BinOp):
            return self._is_set_type(annotation.left) or self._is_set_type(annotation.right)
        return isinstance(annotation, ast.Name) and annotation.id in self.SET_TYPES

    def _is_set(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Set | ast.SetComp) or _called(node) in ("set", "frozenset"):
            return True
        if isinstance(node, ast.BinOp) and isinstance(
            node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor
        ):
            return any(self._is_set(side) or _is_view(side) for side in (node.left, node.right))
        if isinstance(node, ast.IfExp):
            return self._is_set(node.body) or self._is_set(node.orelse)
        if isinstance(node, ast.Name):
            return node.id in self._names
        return isinstance(node, ast.Attribute) and "." + node.attr in self._names

    def _fixes_an_order(self, node: ast.Starred | ast.Call) -> bool:
        if isinstance(node, ast.Starred):
            return self._is_set(node.value)
        return _called(node) in self.ORDERED and any(self._is_set(a) for a in node.args)

    def findings(self, module: str) -> list[str]:
        free = {
            id(argument)
            for node in ast.walk(self._tree)
            if isinstance(node, ast.Call) and _called(node) in self.ORDER_FREE
            for argument in node.args
        }
        lines = []
        for node in ast.walk(self._tree):
            if isinstance(node, ast.For) and self._is_set(node.iter):
                lines.append(node.lineno)
            elif isinstance(node, ast.ListComp | ast.GeneratorExp | ast.DictComp):
                if id(node) not in free and any(self._is_set(g.iter) for g in node.generators):
                    lines.append(node.lineno)
            elif (
                isinstance(node, ast.Starred | ast.Call)
                and self._fixes_an_order(node)
                and id(node) not in free
            ):
                lines.append(node.lineno)
        return [f"{module}:{line}: iterates over a set, in hash order" for line in lines]


def _is_view(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("keys", "items")
    )
