"""The report: everything is in it, nothing hostile gets out of it, and it stays small."""

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from jepsen_lite.checker.base import Anomaly, Verdict, Window
from jepsen_lite.history import History
from jepsen_lite.report import About, rendered, write_report
from report.runs import SECOND, busy_history, written

HOSTILE = (
    '</code></svg><script>alert("1")</script><img src=x onerror=alert(2)>&amp;\u202egnp\x00\ud800'
)
VOID = {"meta", "br", "img", "input", "hr", "link"}


class Page(HTMLParser):
    """What a browser would see; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


STALE = written(
    (0, "invoke", "write", {"key": "a", "value": "v1"}),
    (0, "ok", "write", {"key": "a", "value": "v1", "revision": 7}),
    (1, "invoke", "read", {"key": "a"}),
    (2, "invoke", "write", {"key": "a", "value": "v2"}),
    (1, "ok", "read", {"key": "a", "value": "v0", "revision": 6}),
    (-1, "invoke", "start-pause", None),
    (-1, "info", "start-pause", {"member": 1}),
)
ABOUT = About(
    title="register against raftkv",
    started="2026-11-23 12:00 UTC",
    options={"workload": "register", "seed": 4711},
    versions={"raftkv": "0.5.0"},
    command=["python", "jepsen-lite", "run", "--set", "a=b c"],
)
FOUND = {
    "witness": Verdict(
        False,
        facts={"operations checked": 12345},
        anomalies=[Anomaly("stale-read", "Process 1 saw revision 6 after 7 was there.", (1, 4))],
    ),
    "linear": Verdict(False, undecided=True),
    "logs": Verdict(True, facts={"lines": 17}),
}
WINDOWS = [
    Window("pause", SECOND, 3 * SECOND, "member 1"),
    Window("partition", 2 * SECOND, 5 * SECOND, "the leader alone"),
]


def test_it_tells_verdicts_facts_anomalies_settings_and_how_to_repeat() -> None:
    page = Page(rendered(ABOUT, STALE, FOUND, WINDOWS))
    for words in (
        "register against raftkv",
        "NOT VALID",
        "witness",
        "12,345",
        "undecided",
        "stale-read",
        "Process 1 saw revision 6 after 7 was there.",
        "seed 4711",
        "raftkv 0.5.0",
        "python jepsen-lite run --set 'a=b c'",
        "2 faults of 2 kinds",
        "pause",
        "partition",
    ):
        assert words in page.text, words


def test_a_witness_shows_its_processes_as_rows_and_its_operations_as_bars() -> None:
    drawing = _drawing(rendered(ABOUT, STALE, FOUND), "stale-read")
    texts = [node.text for node in drawing.iter() if node.tag.endswith("text")]
    assert "process 0" in texts
    assert "process 1" in texts
    assert "process 2" not in texts
    assert any(text and text.startswith("write a v1") for text in texts)
    bars = [node for node in drawing.iter() if node.get("class") == "op-ok"]
    places = [(float(bar.get("x", 0)), float(bar.get("width", 0))) for bar in bars]
    (first, first_width), (second, _) = places
    assert first + first_width < second  # the read began behind the write's end


def test_an_operation_without_an_end_reaches_the_right_edge() -> None:
    anomaly = Anomaly("x", "y", (3, 4))
    verdicts = {"c": Verdict(False, anomalies=[anomaly])}
    drawing = _drawing(rendered(ABOUT, STALE, verdicts), "behind x")
    (bar,) = [node for node in drawing.iter() if node.get("class") == "op-info"]
    width = float((drawing.get("viewBox") or "").split()[2])
    assert float(bar.get("x", 0)) + float(bar.get("width", 0)) > width - 20


def test_hostile_values_stay_text(tmp_path: Path) -> None:
    history = written(
        (0, "invoke", HOSTILE, {HOSTILE: HOSTILE}),
        (0, "info", HOSTILE, HOSTILE),
        (1, "invoke", "read", [HOSTILE, None, 1.5, {"a": [HOSTILE]}]),
        (1, "ok", "read", HOSTILE),
    )
    verdicts = {
        HOSTILE: Verdict(
            False, facts={HOSTILE: HOSTILE}, anomalies=[Anomaly(HOSTILE, HOSTILE, (0, 1, 2, 99))]
        )
    }
    about = About(
        HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}, [HOSTILE], notes=[HOSTILE]
    )
    path = tmp_path / "report.html"
    write_report(path, about, history, verdicts, [Window(HOSTILE, 0, 9, HOSTILE)])
    text = path.read_bytes().decode("utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    for character in ("\u202e", "\x00", "\ud800"):
        assert character not in text
    assert '<script>alert("1")</script>' in page.text
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(drawing)


def test_nothing_is_loaded_from_anywhere() -> None:
    page = Page(rendered(ABOUT, busy_history(500), FOUND, WINDOWS))
    assert not {"script", "link", "img", "iframe", "object", "a", "use", "image"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not names & {"src", "href", "xlink:href", "srcset", "action"}
    policy = dict(page.attributes)["content"]
    assert policy is not None
    assert any(value and "default-src 'none'" in value for _, value in page.attributes)
    assert "url(" not in rendered(ABOUT, STALE, FOUND)
    assert "@import" not in rendered(ABOUT, STALE, FOUND)


@pytest.mark.parametrize("calls", [300, 20_000])
def test_its_size_does_not_grow_with_the_operations(calls: int) -> None:
    text = rendered(ABOUT, busy_history(calls), FOUND, WINDOWS)
    assert len(text) < 1_000_000
    assert f"{calls:,} operations" in text


@pytest.mark.slow
def test_hundreds_of_thousands_of_operations_fit_into_five_megabytes() -> None:
    windows = [
        Window(kind, at * SECOND // 50, (at + 1) * SECOND // 50, "x" * 80)
        for at in range(2500)
        for kind in ("pause", "kill", "partition")
    ]
    text = rendered(ABOUT, busy_history(300_000), FOUND, windows)
    assert len(text.encode()) < 5_000_000
    assert "300,000 operations" in text


def test_many_anomalies_are_counted_and_the_smallest_shown_first() -> None:
    anomalies = [Anomaly(f"a{size}", "text", tuple(range(size))) for size in range(60, 0, -1)]
    history = busy_history(200)
    page = Page(rendered(ABOUT, history, {"c": Verdict(False, anomalies=anomalies)}))
    assert "c: 60 found" in page.text
    assert "and 48 more" in page.text
    assert page.text.index("a1 text") < page.text.index("a12 text")
    assert "a13 text" not in page.text


def test_one_anomaly_of_each_name_is_open_and_the_others_fold() -> None:
    anomalies = [Anomaly(name, f"text {name} {at}", (at,)) for name in "ab" for at in range(3)]
    text = rendered(ABOUT, busy_history(50), {"c": Verdict(False, anomalies=anomalies)})
    unfolded, _, folded = text.partition("4 more like these")
    for words in ("text a 0", "text b 0"):
        assert words in unfolded
    for words in ("text a 1", "text a 2", "text b 1", "text b 2"):
        assert words in folded


def test_labels_of_one_process_do_not_run_into_each_other() -> None:
    history = written(
        (0, "invoke", "write", {"key": "jepsen/k", "value": "v" * 200}),
        (0, "ok", "write", {"key": "jepsen/k", "value": "v" * 200}),
        (0, "invoke", "read", {"key": "jepsen/k"}),
        (0, "ok", "read", {"key": "jepsen/k", "value": "w" * 200}),
    )
    about = About("x", options={"prefix": "jepsen/"})
    verdicts = {"c": Verdict(False, anomalies=[Anomaly("y", "z", (0, 2))])}
    drawing = _drawing(rendered(about, history, verdicts), "behind y")
    labels = [node for node in drawing.iter() if node.get("class") == "key"]
    labels.sort(key=lambda node: float(node.get("x", 0)))
    first, second = labels
    assert (first.text or "").startswith("write k vvv")
    assert len(first.text or "") * 5.5 < float(second.get("x", 0)) - float(first.get("x", 0))


def test_a_run_without_operations_and_one_without_checkers_have_a_report() -> None:
    empty = Page(rendered(About("nothing"), History(), {})).text
    assert "NOT CHECKED" in empty
    assert "0 operations" in empty
    valid = Page(rendered(About("all"), STALE, {"c": Verdict(True)})).text
    assert "VALID" in valid
    assert "NOT VALID" not in valid


def test_an_interrupted_run_says_so() -> None:
    page = Page(rendered(About("x", interrupted=True), STALE, {"c": Verdict(True)}))
    assert "was interrupted" in page.text


def test_undecided_is_no_success() -> None:
    page = Page(rendered(ABOUT, STALE, {"c": Verdict(True, undecided=True)}))
    assert "UNDECIDED" in page.text
    assert "counts as a failure" in page.text


def test_faults_stand_where_they_were() -> None:
    text = rendered(About("x", seconds=10.0), busy_history(100, seconds=10.0), {}, WINDOWS)
    drawing = _drawing(text, "Faults over time")
    bars = {}
    for node in drawing.iter():
        if "bar" in (node.get("class") or ""):
            bars[node[0].text.split()[0].rstrip(",") if node[0].text else ""] = node
    width = 900 - 76 - 12
    pause, partition = bars["pause"], bars["partition"]
    assert float(pause.get("x", 0)) == pytest.approx(76 + width * 0.1, abs=1)
    assert float(pause.get("width", 0)) == pytest.approx(width * 0.2, abs=1)
    assert pause.get("y") != partition.get("y")
    assert pause.get("class") != partition.get("class")


def _drawing(text: str, title: str) -> ElementTree.Element:
    """The drawing whose title has these words."""
    for found in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        root = ElementTree.fromstring(found)
        if title in (root[0].text or ""):
            return root
    raise AssertionError(f"no drawing {title!r}")
