"""The report that a person reads: one HTML file per run."""

from jepsen_lite.report.page import About, rendered, write_report

__all__ = ["About", "rendered", "write_report"]
