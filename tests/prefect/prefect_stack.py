"""What the tests of the Prefect collection find on the laptop stack."""

from __future__ import annotations

ENVIRONMENT = "pf-box"
"""An environment whose workers start by themselves when something is submitted to it."""
