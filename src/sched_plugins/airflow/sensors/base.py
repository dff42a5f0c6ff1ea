"""What the sensors have in common: the hook's settings, and waiting in the triggerer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowException, AirflowSkipException
from airflow.triggers.base import BaseTrigger

from sched_plugins.airflow.exceptions import named, translated
from sched_plugins.airflow.settings import default_deferrable
from sched_plugins.airflow.task import SchedulerTask
from sched_plugins.airflow.triggers.base import ERROR

if TYPE_CHECKING:
    from airflow.sdk import Context


class SchedulerSensor(SchedulerTask, BaseSensorOperator):
    """
    Base of the sensors: each works in the modes ``poke`` and ``reschedule``, and deferred.

    A subclass looks in :meth:`look`, and makes its trigger in :meth:`trigger`.

    :param deferrable: Whether to wait in the triggerer; by default as ``[operators] default_deferrable`` says.
    """

    ui_color = "#e8ecf7"

    def __init__(
        self,
        *,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deferrable = default_deferrable() if deferrable is None else deferrable

    def look(self, context: Context) -> PokeReturnValue:
        """Look once."""
        raise NotImplementedError

    def first_look(self, context: Context) -> PokeReturnValue:
        """Look once before deferring."""
        return self.look(context)

    def trigger(self) -> BaseTrigger:
        """Make the trigger that waits."""
        raise NotImplementedError

    def handed_on(self, context: Context, value: Any) -> Any:
        """Do what comes after the wait; what the task returns."""
        return value

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once."""
        with translated():
            return self.look(context)

    def execute(self, context: Context) -> Any:
        """Wait, deferred or not."""
        if not self.deferrable:
            return self._hand_on(context, super().execute(context))
        try:
            with translated():
                found = self.first_look(context)
        except AirflowException as error:
            if self.never_fail:
                raise AirflowSkipException(f"Skipping, since never_fail is set: {error}") from error
            if not self.silent_fail:
                raise
            self.log.error("The first look failed: %s", error)
            found = PokeReturnValue(False)
        if found.is_done:
            return self._hand_on(context, found.xcom_value)
        return self._defer()

    def _defer(self) -> Any:
        with translated():
            trigger = self.trigger()
        return self.defer(
            trigger=trigger, method_name="execute_complete", timeout=timedelta(seconds=float(self.timeout))
        )

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> Any:
        """Go on when the trigger has fired."""
        told = event or {}
        if told.get("status") == ERROR:
            raise named(str(told.get("kind")), str(told.get("message")))
        return self._hand_on(context, self.seen(context, told))

    def _hand_on(self, context: Context, value: Any) -> Any:
        with translated():
            return self.handed_on(context, value)

    def seen(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Get what the wait was for, after the trigger's event: by default by looking. It waits if a job began anew."""
        found = self.poke(context)
        if not found.is_done:
            self._defer()
        return found.xcom_value
