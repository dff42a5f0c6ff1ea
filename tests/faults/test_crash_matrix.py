"""A crash at every boundary, in the stories of jobs."""

from __future__ import annotations

import pytest
from matrix import broken, try_every_fault
from stories_of_jobs import STORIES
from story import Story

from sched_plugins.testing import Faults


@pytest.mark.parametrize("story", STORIES, ids=lambda one: one.name)
def test_a_story_without_faults_ends_well(story: Story) -> None:
    assert broken(story, story.simulate(Faults())) == []


@pytest.mark.parametrize("story", STORIES, ids=lambda one: one.name)
def test_one_fault_anywhere_breaks_nothing(story: Story, request: pytest.FixtureRequest) -> None:
    found = try_every_fault(story)
    request.node.user_properties.append(("crash matrix", (found.calls, found.faults, len(found.broken))))
    assert not found.broken, "\n".join(found.broken[:20])
