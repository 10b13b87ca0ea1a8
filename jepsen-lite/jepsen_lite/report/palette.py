"""Colours and style: one sheet for light and dark, told by custom properties.

Outcomes have colours of their own (and shapes: an unknown outcome is a hollow mark), kinds of
faults and kinds of operations take theirs in order of first use from two palettes that people
with the common colour deficiencies can tell apart; every band and line carries its name as well.
"""

from typing import Final

BANDS: Final = 10  # classes k0 to k9
LINES: Final = 8  # classes s0 to s7

_COLOURS: Final = """
light bands #c2410c #1d4ed8 #15803d #7e22ce #b45309 #0e7490 #be185d #4d7c0f #475569 #9f1239
dark bands #fb923c #60a5fa #4ade80 #c084fc #fbbf24 #22d3ee #f472b6 #a3e635 #94a3b8 #fb7185
light lines #1d4ed8 #c2410c #15803d #7e22ce #0e7490 #be185d #854d0e #475569
dark lines #7aa8ff #ff9d5c #5fd98a #c9a0ff #4fd3e6 #ff8cc0 #e3c163 #a3b1c6
"""


def _properties(theme: str) -> str:
    """The custom properties --k0, ... of bands and --s0, ... of lines."""
    parts = []
    for line in _COLOURS.split("\n"):
        words = line.split()
        if words and words[0] == theme:
            letter = "k" if words[1] == "bands" else "s"
            parts += [f"--{letter}{at}:{colour}" for at, colour in enumerate(words[2:])]
    return ";".join(parts)


_LIGHT = (
    "--paper:#fff;--ink:#1a1d21;--soft:#5b6470;--line:#d9dde3;--panel:#f5f6f8;--ok:#1d5fbf;"
    "--fail:#b86a00;--info:#c01f2e;--good:#0f7a3d;--bad:#c01f2e;--warn:#9a6200;"
    + _properties("light")
)
_DARK = (
    "--paper:#14171b;--ink:#e8eaed;--soft:#a2abb6;--line:#343a42;--panel:#1d2126;--ok:#6aa6ff;"
    "--fail:#f0a63c;--info:#ff6b78;--good:#4cc97f;--bad:#ff6b78;--warn:#f0b354;"
    + _properties("dark")
)

_RULES = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0}
h2{font-size:1.2rem;margin:2rem 0 .5rem}
h3{font-size:1rem;margin:1.25rem 0 .25rem}
p{margin:.5rem 0;overflow-wrap:anywhere}
code,pre{font-family:ui-monospace,monospace;font-size:.875rem}
pre{background:var(--panel);padding:.75rem;border-radius:.375rem;overflow-x:auto}
.verdict{display:inline-block;padding:.125rem .625rem;border-radius:.375rem;font-weight:700;
border:2px solid currentColor}
.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}.soft{color:var(--soft)}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9375rem}
th,td{text-align:left;padding:.375rem .5rem;border-bottom:1px solid var(--line);
vertical-align:top}
td.number,th.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.facts{margin:0;padding:0;list-style:none;display:flex;flex-wrap:wrap;gap:.125rem 1rem}
.facts b{font-weight:600;font-variant-numeric:tabular-nums}
.anomaly{border-left:3px solid var(--bad);padding-left:.75rem;margin:1rem 0}
.drawing{margin:.5rem 0;overflow-x:auto}
svg{display:block;width:100%;height:auto;font:12px system-ui,sans-serif}
svg text{fill:var(--ink)}svg text.soft{fill:var(--soft)}
svg .grid{stroke:var(--line);stroke-width:1;fill:none}
svg .axis{stroke:var(--soft);stroke-width:1;fill:none}
svg .end{text-anchor:end}svg .middle{text-anchor:middle}
.ok{fill:var(--ok)}.fail{fill:var(--fail)}.info{fill:var(--info)}
svg .open{fill:none;stroke:var(--info);stroke-width:1.2}
svg .line{fill:none;stroke-width:1.6;stroke-linejoin:round}
svg .failing{stroke-dasharray:4 3}
svg .bar{stroke:var(--paper);stroke-width:1}
svg .op-ok{fill:var(--ok)}svg .op-fail{fill:var(--fail)}
svg .op-info{fill:var(--info);fill-opacity:.25;stroke:var(--info);stroke-dasharray:4 3}
svg .key{font-size:11px}
.legend{display:flex;flex-wrap:wrap;gap:.125rem 1rem;margin:.25rem 0;padding:0;list-style:none;
font-size:.875rem}
.legend i{display:inline-block;width:.75rem;height:.75rem;border-radius:.125rem;
margin-right:.375rem;vertical-align:-.0625rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.125rem 1rem;margin:.5rem 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere;min-width:0}
details{margin:.5rem 0}summary{cursor:pointer}
@media (max-width:36rem){body{font-size:15px}main{padding:.75rem}
dl{grid-template-columns:1fr}dd{margin-bottom:.375rem}
.stack thead{display:none}.stack tr{display:block;padding:.375rem 0;
border-bottom:1px solid var(--line)}.stack td{display:block;border:0;padding:.125rem 0}}
@media print{body{background:#fff}}
"""


def sheet() -> str:
    """The page's style sheet."""
    classes = [f".k{number}{{fill:var(--k{number})}}" for number in range(BANDS)]
    classes += [f"i.k{number}{{background:var(--k{number})}}" for number in range(BANDS)]
    classes += [f"svg .s{number}{{stroke:var(--s{number})}}" for number in range(LINES)]
    classes += [f"i.s{number}{{background:var(--s{number})}}" for number in range(LINES)]
    classes.append("i.hollow{background:none;border:2px solid var(--info);border-radius:50%}")
    for one in ("ok", "fail", "info"):
        classes.append(f"i.{one},i.of-{one}{{background:var(--{one})}}")
        classes.append(f"svg .of-{one}{{stroke:var(--{one})}}")
    return (
        f":root{{color-scheme:light dark;{_LIGHT}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
        + _RULES.replace("\n", "")
        + "".join(classes)
    )
