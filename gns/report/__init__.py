"""report.html: what a run was and what came of it, in one file that opens without a network."""

from gns.report.page import write_comparison, write_report

__all__ = ["write_comparison", "write_report"]
