"""What is shipped for Prometheus and Grafana fits to what members expose, and does what it says.

Tests that need Prometheus' own tools say so where these are not installed (Debian package
`prometheus`).
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.server.metrics.conftest import Pages
from tests.server.metrics.pages import families

DEPLOY = Path(__file__).parents[3] / "deploy"
RULES = DEPLOY / "prometheus" / "raftkv.rules.yml"
RULES_TEST = DEPLOY / "prometheus" / "raftkv.rules.test.yml"
DASHBOARD = DEPLOY / "grafana" / "raftkv.json"

MIXIN_ALERTS = (
    "etcdMembersDown",
    "etcdInsufficientMembers",
    "etcdNoLeader",
    "etcdHighNumberOfLeaderChanges",
    "etcdHighNumberOfFailedGRPCRequests",
    "etcdGRPCRequestsSlow",
    "etcdMemberCommunicationSlow",
    "etcdHighNumberOfFailedProposals",
    "etcdHighFsyncDurations",
    "etcdHighCommitDurations",
    "etcdDatabaseQuotaLowSpace",
    "etcdExcessiveDatabaseGrowth",
    "etcdDatabaseHighFragmentationRatio",
)
# Everything in an expression that looks like a metric and is none.
_METRIC = re.compile(r"\b(?:etcd|raftkv|grpc|process|python|os)_[a-z0-9_]+\b")
_LABELS = frozenset({"grpc_code", "grpc_method", "grpc_service", "grpc_type"})


def promtool(*arguments: str, text: str | None = None) -> str:
    """What promtool says; it must be content."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    done = subprocess.run(
        [path, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, Any]]:
    tree = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in tree["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    """Those of the dashboard's panels."""
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]


def unknown_metrics(expression: str, page: str) -> set[str]:
    """Metrics of an expression that a member does not have."""
    known = families(page)
    names = set(_METRIC.findall(expression)) - _LABELS
    suffix = re.compile("_(?:bucket|sum|count)$")
    return {name for name in names if name not in known and suffix.sub("", name) not in known}


def test_every_alert_asks_for_metrics_that_members_have(pages: Pages) -> None:
    assert len(rules()) > 20
    for rule in rules():
        assert unknown_metrics(rule["expr"], pages.leader) == set(), rule["alert"]
        assert "up{" in rule["expr"] or _METRIC.search(rule["expr"]), rule["alert"]


def test_an_unknown_metric_in_an_expression_is_found(pages: Pages) -> None:
    expression = 'rate(etcd_no_such_total{grpc_code="OK"}[5m]) + raftkv_leases'
    assert unknown_metrics(expression, pages.leader) == {"etcd_no_such_total"}


def test_every_alert_of_the_mixin_is_there() -> None:
    assert set(MIXIN_ALERTS) <= {rule["alert"] for rule in rules()}


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    tree = yaml.safe_load(RULES_TEST.read_text(encoding="utf-8"))
    fires = {
        (found[1], severity)
        for test in tree["tests"]
        for check in test["promql_expr_test"]
        for expected in check["exp_samples"]
        if (found := re.search(r'alertname="(\w+)"', expected["labels"]))
        for severity in re.findall(r'severity="(\w+)"', expected["labels"])
    }
    assert fires == {(rule["alert"], rule["labels"]["severity"]) for rule in rules()}


def test_promtool_accepts_the_rules_and_their_tests() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(RULES))
    assert "SUCCESS" in promtool("test", "rules", str(RULES_TEST))


def test_promtool_accepts_the_configuration() -> None:
    promtool("check", "config", str(DEPLOY / "prometheus" / "prometheus.yml"))


def test_promtool_accepts_the_own_metrics(pages: Pages) -> None:
    """Of the others it does not like the names, which are etcd's."""
    own = re.findall(r"^(?:# (?:HELP|TYPE) )?raftkv_.*\n", pages.leader, re.MULTILINE)
    promtool("check", "metrics", text="".join(own))


def test_the_dashboard_shows_metrics_that_members_have(pages: Pages) -> None:
    assert len(expressions()) > 40
    for expression in expressions():
        assert unknown_metrics(expression, pages.leader) == set(), expression


def test_the_dashboards_panels_do_not_overlap_and_have_numbers_of_their_own() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        mine = {
            (place["x"] + right, place["y"] + down)
            for right in range(place["w"])
            for down in range(place["h"])
        }
        assert not mine & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= mine


def test_promtool_can_read_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    written = [
        {"record": f"panel:{number}", "expr": plain(expression)}
        for number, expression in enumerate(expressions())
    ]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": written}]}))
    promtool("check", "rules", str(path))


def plain(expression: str) -> str:
    """An expression with values for Grafana's variables."""
    values = {"$__rate_interval": "5m", "$instance": ".*", "$job": "raftkv"}
    for variable, value in values.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression
