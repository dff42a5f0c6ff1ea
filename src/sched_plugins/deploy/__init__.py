"""Deploy schedulers and environments: package the functions, create or update a stack, take it away again.

The same code serves AWS and the laptop stack: only the endpoint differs. Nothing here prints: callers pass
``on_plan`` and ``on_event`` to show what will change and what is happening.
"""

from __future__ import annotations

from sched_plugins.deploy.archive import Archive, Target, functions_archive
from sched_plugins.deploy.bundle import Bundle, package
from sched_plugins.deploy.deployment import (
    Deployed,
    Deployment,
    deploy_environment,
    deploy_scheduler,
    find_environment,
    find_scheduler,
    list_stacks,
)
from sched_plugins.deploy.destruction import Destruction, destroy
from sched_plugins.deploy.stack import Change, StackEvent
from sched_plugins.deploy.template import Parameter, template_parameters

__all__ = [
    "Archive",
    "Bundle",
    "Change",
    "Deployed",
    "Deployment",
    "Destruction",
    "Parameter",
    "StackEvent",
    "Target",
    "deploy_environment",
    "deploy_scheduler",
    "destroy",
    "find_environment",
    "find_scheduler",
    "functions_archive",
    "list_stacks",
    "package",
    "template_parameters",
]
