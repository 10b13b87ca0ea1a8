"""HTML and SVG as text, with nothing in it that came from outside unescaped.

Whatever is shown goes through `plain` (control and direction-changing characters become visible
escapes, so that a hostile value can neither hide nor rearrange what stands beside it) and is
escaped here, once: as a child by `shown`, as an attribute by `element`. Children of `element` are
markup already.
"""

import unicodedata
from html import escape
from typing import Final

_KEPT: Final = {"\n", "\t"}
_HIDDEN: Final = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # Unicode categories


def plain(value: object, longest: int = 0) -> str:
    """A value as text that shows all it has. longest: in characters, 0 = no bound."""
    text = value if isinstance(value, str) else str(value)
    if longest and len(text) > longest:
        text = text[: longest - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        one if one in _KEPT or unicodedata.category(one) not in _HIDDEN else _escaped(one)
        for one in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def shown(value: object, longest: int = 0) -> str:
    """A value as markup. longest: in characters, 0 = no bound."""
    return escape(plain(value, longest), quote=True)


def element(name: str, *children: str, **attributes: object) -> str:
    """An element. children: markup. attributes: "class_" is class, "stroke_width" stroke-width."""
    parts = [name]
    for key, value in attributes.items():
        if value is None:
            continue
        written = f"{value:g}" if isinstance(value, float) else shown(value)
        parts.append(f'{key.rstrip("_").replace("_", "-")}="{written}"')
    return f"<{' '.join(parts)}>{''.join(children)}</{name}>"


def drawing(width: float, height: float, title: str, *children: str) -> str:
    """An SVG drawing that scales with its place. title: for those who cannot see it."""
    return element(
        "figure",
        element(
            "svg",
            element("title", shown(title)),
            *children,
            viewBox=f"0 0 {width:g} {height:g}",
            role="img",
            xmlns="http://www.w3.org/2000/svg",
            style=f"min-width:{min(width, 640):g}px;max-width:{width * 1.2:g}px",
        ),
        class_="drawing",
        tabindex="0",
    )


def label(x: float, y: float, value: object, *, longest: int = 0, **attributes: object) -> str:
    """Text in a drawing, at its base line. attributes: as for `element`."""
    return element("text", shown(value, longest), x=x, y=y, **attributes)
