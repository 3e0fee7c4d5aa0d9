"""The report of a run: one offline HTML file."""

from fromnoise.report.report import Player, write_report

__all__ = ["Player", "write_report"]
