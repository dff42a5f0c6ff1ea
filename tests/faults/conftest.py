"""Tells the size of the crash matrix and of the interference, and what they found, at the end of a run."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from sched_plugins.core.wrapper import linux
from sched_plugins.testing import Way

# The same few scripts are packed for thousands of faults, and a script is always packed in the same way.
linux.pack = cache(linux.pack)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Add up what the tests, on whatever process, have told of themselves."""
    reports = [
        report
        for found in terminalreporter.stats.values()
        for report in found
        if isinstance(report, pytest.TestReport) and report.when == "call"
    ]
    told = [(name, value) for report in reports for name, value in report.user_properties]
    if crashes := [value for name, value in told if name == "crash matrix"]:
        calls, faults, violations = (sum(one[index] for one in crashes) for index in range(3))
        terminalreporter.write_line(
            f"crash matrix: {calls:,} calls in {len(crashes)} stories x up to {len(Way)} ways = {faults:,} faults, "
            f"{violations} violations"
        )
    if disturbed := [value for name, value in told if name == "interference"]:
        moments, violations = (sum(one[index] for one in disturbed) for index in range(2))
        terminalreporter.write_line(f"interference: {moments:,} interruptions by others, {violations} violations")
