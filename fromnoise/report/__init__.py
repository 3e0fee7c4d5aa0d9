"""The report of a run: one offline HTML file."""

from fromnoise.report.report import write_report

__all__ = ["write_report"]
