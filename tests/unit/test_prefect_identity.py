"""Names that the Prefect collection makes. Not beside its other tests: Hypothesis takes Prefect's threads amiss."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from sched_plugins.core import limits
from sched_plugins.prefect.artifact_keys import MAX_KEY, keys_of
from sched_plugins.prefect.identity import CallIdentity

TEXTS = st.text(max_size=250) | st.sampled_from(["a/b", "a%2Fb", "", "%", "/", "0"])
PREFECTS_KEYS = re.compile(r"[a-z0-9-]+")
IDENTITIES = st.builds(CallIdentity, TEXTS, st.lists(TEXTS, min_size=1, max_size=3).map(tuple))


@given(IDENTITIES, IDENTITIES)
def test_different_calls_have_different_runs_and_the_same_ones_the_same(one: CallIdentity, other: CallIdentity) -> None:
    same = (one.owner, one.parts) == (other.owner, other.parts)
    assert (one.digest == other.digest) is same
    if "no-flow" not in (one.owner, other.owner):
        assert (one.job_id == other.job_id) is same


@given(IDENTITIES)
def test_a_job_id_is_within_its_limit(one: CallIdentity) -> None:
    assert len(one.job_id.encode()) <= limits.MAX_JOB_ID_BYTES


@given(st.lists(st.text(max_size=200), max_size=8))
def test_every_name_has_a_key_of_its_own_that_prefect_takes(names: list[str]) -> None:
    keys = keys_of("pictures", names)
    assert set(keys) == set(names)
    assert len(set(keys.values())) == len(keys)
    for key in keys.values():
        assert PREFECTS_KEYS.fullmatch(key)
        assert len(key) <= MAX_KEY
