"""What the adapters must be told: the names of one scheduler's resources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sched_plugins.core import names
from sched_plugins.errors import InvalidSettings

_PREFIX = "SCHED_"


@dataclass(frozen=True, slots=True)
class Settings:
    """The resources of one scheduler. What a function never touches may be left empty."""

    name: str
    """The scheduler's stack name, which is also the key of its workers' tag."""
    job_table: str
    slot_table: str
    state_machine_arn: str = ""
    """The worker state machine."""
    output_bucket: str = ""
    """Receives the output of commands, and rejected messages."""
    dead_letters: str = ""
    """Name, ARN or URL of the dead-letter queue."""
    event_bus: str = "default"

    @classmethod
    def of(cls, name: str) -> Settings:
        """The settings that follow from a scheduler's name alone."""
        return cls(name, names.job_table(name), names.slot_table(name))

    @classmethod
    def from_environment(cls, variables: Mapping[str, str]) -> Settings:
        """Read ``SCHED_NAME`` and, where they are not derived from it, ``SCHED_JOB_TABLE``, ``SCHED_SLOT_TABLE``,
        ``SCHED_STATE_MACHINE_ARN``, ``SCHED_OUTPUT_BUCKET``, ``SCHED_DEAD_LETTERS`` and ``SCHED_EVENT_BUS``.

        Raises:
            InvalidSettings: ``SCHED_NAME`` is not set.
        """
        name = variables.get(f"{_PREFIX}NAME", "")
        if not name:
            raise InvalidSettings(f"the environment variable {_PREFIX}NAME is not set; set it to the scheduler's name")
        derived = cls.of(name)

        def read(field: str) -> str:
            return variables.get(_PREFIX + field.upper()) or str(getattr(derived, field))

        return cls(name, *(read(field) for field in cls.__slots__[1:]))

    def needed(self, field: str) -> str:
        """The value of a field that must not be empty.

        Raises:
            InvalidSettings: it is empty.
        """
        value = str(getattr(self, field))
        if not value:
            raise InvalidSettings(
                f"scheduler {self.name!r} was given no {field}; set the environment variable {_PREFIX}{field.upper()}"
            )
        return value
