"""Settings of all tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The same examples in every run, and no limit in seconds: a loaded machine is not a failure. HYPOTHESIS_PROFILE=long
# looks for new ones.
settings.register_profile("suite", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", deadline=None, max_examples=5_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))
