"""Others act between any two calls, in the stories of workers."""

from __future__ import annotations

import pytest
from interference import DISTURBANCES, Disturbance, interfere
from stories_of_workers import STORIES
from story import Story


@pytest.mark.parametrize("disturbance", DISTURBANCES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("story", STORIES, ids=lambda one: one.name)
def test_whatever_others_do_meanwhile_breaks_nothing(
    story: Story, disturbance: Disturbance, request: pytest.FixtureRequest
) -> None:
    moments, found = interfere(story, disturbance)
    request.node.user_properties.append(("interference", (moments, len(found))))
    assert not found, "\n".join(found[:10])
