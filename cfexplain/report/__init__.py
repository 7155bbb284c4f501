"""A result as one self-contained HTML report: sorted, filtered and read in any browser, without a network."""

from cfexplain.report.report import render_report

__all__ = ["render_report"]
