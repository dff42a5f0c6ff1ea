"""Tells the size of the crash matrix, and what it found, at the end of a run."""

from __future__ import annotations

from typing import Any

import pytest

from sched_plugins.testing import Way


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Add up what the matrix' tests, on whatever process, have told of themselves."""
    sizes = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == "crash matrix"
    ]
    if not sizes:
        return
    calls, faults, violations = (sum(size[index] for size in sizes) for index in range(3))
    terminalreporter.write_line(
        f"crash matrix: {calls:,} calls in {len(sizes)} stories x up to {len(Way)} ways = {faults:,} faults, "
        f"{violations} violations"
    )
