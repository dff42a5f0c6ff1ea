"""Settings of the fleet: how fast it is, and how badly it behaves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Fault:
    """Refuse a fraction of the calls of one action with error ``code``.

    ``lost_reply`` carries the call out first and then answers HTTP 500, as when a reply is lost on the way.
    """

    code: str = "ThrottlingException"
    fraction: float = 1.0
    lost_reply: bool = False


@dataclass
class Settings:
    """What the fleet imitates. Durations in seconds, fractions from 0 to 1; the defaults are well behaved.

    boot_seconds: time from RunInstances to running.
    event_drop_fraction, event_duplicate_fraction, event_delay_seconds: events are best effort on AWS.
    cancel_works: false makes CancelCommand accept and do nothing, which AWS allows itself.
    invocation_delay_seconds: how long GetCommandInvocation does not know a new command yet.
    output_delay_seconds: how long after its end a command's output reaches S3.
    delivery_timeout_seconds: replaces the TimeoutSeconds that callers ask for (AWS allows no less than 30).
    minimum_execution_timeout: an executionTimeout below it becomes the agent's default of 3,600 s.
    reboot_limit: how often exit code 194 reruns a document before it counts as failed.
    faults: actions that are refused, by action name.
    seed: of the random numbers behind the fractions.
    """

    boot_seconds: float = 0.2
    event_drop_fraction: float = 0.0
    event_duplicate_fraction: float = 0.0
    event_delay_seconds: float = 0.0
    cancel_works: bool = True
    invocation_delay_seconds: float = 0.0
    output_delay_seconds: float = 0.0
    delivery_timeout_seconds: float | None = None
    minimum_execution_timeout: int = 5
    reboot_limit: int = 3
    faults: dict[str, Fault] = field(default_factory=dict)
    seed: int = 1

    def update(self, changes: dict[str, Any]) -> None:
        """Set the named settings; raises ``ValueError`` for a name that is none."""
        known = {item.name for item in fields(self)}
        for name in changes:
            if name not in known:
                raise ValueError(f"no fleet setting is called {name!r}; there are: {', '.join(sorted(known))}")
        for name, value in changes.items():
            if name == "faults":
                value = {action: Fault(**fault) for action, fault in value.items()}
            setattr(self, name, value)

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)
