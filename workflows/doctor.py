"""DoctorWorkflow: compare orders with their workflows and mend what differs, by its schedule or on request."""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.orders.doctor import Examination, Report, compare_stores

from workflows.repeating import HEARTBEAT_TIMEOUT

SCHEDULED = Examination(mend=True, thorough=False)


@workflow.defn
class DoctorWorkflow:
    @workflow.run
    async def run(self, given: Examination = SCHEDULED) -> Report:
        """Return the differences found."""
        return await workflow.execute_activity(
            compare_stores,
            given,
            start_to_close_timeout=timedelta(hours=3),
            schedule_to_close_timeout=timedelta(hours=6),
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
        )
