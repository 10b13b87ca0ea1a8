"""How the pages become a site: `make docs`. Nothing is fetched from anywhere.

The docstrings of the house are plain text: indented blocks are code or tables, `backticks` name
things. `as_rst` makes what Sphinx expects out of that, so that nobody has to write markup there.
"""

import re
from typing import Any

from raftkv import __version__

project = "raftkv"
author = "the raftkv authors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"raftkv {release}"
html_show_copyright = False
html_static_path: list[str] = []
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 80
myst_heading_anchors = 3
add_module_names = False

_NAMED = re.compile(r"`([^`\n]+)`")
_MARKUP = re.compile(r"([\\*|]|_\b)")


def _inline(line: str) -> str:
    """Names as literals, everything else as the text that it is."""
    parts = _NAMED.split(line)
    return "".join(
        f"``{part}``" if place % 2 else _MARKUP.sub(r"\\\1", part)
        for place, part in enumerate(parts)
    )


def as_rst(lines: list[str]) -> list[str]:
    """A plain docstring as reStructuredText: lists stay lists, indented blocks are literal."""
    done: list[str] = []
    literal = listed = False
    for line in lines:
        indented = line.startswith(" ") and not listed
        if line and indented and not literal:
            done += ["", "::", ""]
        if line:
            literal = indented
            listed = line.startswith("* ") or (listed and line.startswith(" "))
        if literal and line:
            done.append(line)
        elif line.startswith("* "):
            done += ["* " + _inline(line[2:])]
        elif listed and line.startswith("  "):
            done.append("  " + _inline(line.strip()))
        else:
            if done and done[-1].startswith("   ") and line:
                done.append("")
            done.append(_inline(line))
    return done


def _plain(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = as_rst(lines)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _plain)
