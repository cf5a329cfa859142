"""What our processes need of a Temporal cluster: the search attributes of orders, and workers that take tasks."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from temporalio.api.enums.v1 import IndexedValueType, TaskQueueType, WorkerStatus
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeTaskQueueRequest,
    ListWorkersRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from models.search_attributes import KEYS, SEARCH_ATTRIBUTES
from models.settings import settings
from workers.telemetry import HEARTBEAT

HEARTBEAT_LIMIT = 3 * HEARTBEAT
"""A worker that has sent no heartbeat for so long is gone."""
POLL_LIMIT = timedelta(seconds=75)
"""A worker asks for tasks at least once a minute: all that a cluster that keeps no heartbeats knows of it."""

ORDERS = 'WorkflowType="OrderWorkflow"'
"""The query of the workflows of orders."""

_NOT_OFFERED = {RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.UNIMPLEMENTED}
"""The cluster does not offer a call, or not to us."""


def orders_url(ui: str, namespace: str) -> str:
    """Return the address of the list of orders in a Temporal UI."""
    return f"{ui}/namespaces/{quote(namespace)}/workflows?query={quote(ORDERS)}"


class SearchAttributesMissing(Exception):
    """The namespace lacks search attributes, so that no order can start. The text names the commands that add them."""

    def __init__(self, names: Collection[str], namespace: str) -> None:
        commands = "; ".join(
            f"temporal operator search-attribute create --namespace {namespace} --name {name}"
            f" --type {SEARCH_ATTRIBUTES[name]}"
            for name in names
        )
        super().__init__(
            f"the Temporal namespace {namespace} lacks search attributes, or has them with another type: {commands}"
        )


async def missing_search_attributes(client: Client) -> list[str]:
    """Return the search attributes that the namespace lacks, or has with another type. Raise ``RPCError``.

    Empty where the cluster does not list them to us.
    """
    request = ListSearchAttributesRequest(namespace=client.namespace)
    try:
        known = (await client.operator_service.list_search_attributes(request)).custom_attributes
    except RPCError as error:
        if error.status in _NOT_OFFERED:
            return []
        raise
    return [key.name for key in KEYS if known.get(key.name) != key.indexed_value_type.value]


async def ensure_search_attributes(client: Client) -> None:
    """Create the search attributes that the namespace lacks.

    Raise ``SearchAttributesMissing`` where that is not permitted, and ``RPCError`` where the cluster is unreachable.
    """
    missing = await missing_search_attributes(client)
    if not missing:
        return
    wanted = {key.name: IndexedValueType.ValueType(key.indexed_value_type.value) for key in KEYS if key.name in missing}
    request = AddSearchAttributesRequest(namespace=client.namespace, search_attributes=wanted)
    try:
        await client.operator_service.add_search_attributes(request)
    except RPCError as error:
        if error.status in {RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED}:
            raise
        raise SearchAttributesMissing(missing, client.namespace) from None
    if missing := await missing_search_attributes(client):
        raise SearchAttributesMissing(missing, client.namespace)


async def count_workers(client: Client) -> int:
    """Return how many workers take tasks of our task queue. Raise ``RPCError`` or ``RuntimeError``.

    A cluster remembers for minutes a worker that was killed; its heartbeats end at once.
    """
    queue = TaskQueue(name=settings().task_queue)
    described = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace, task_queue=queue, task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
        )
    )
    if not described.pollers:
        return 0
    now = datetime.now(UTC)
    namespace = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    keeps_heartbeats = namespace.namespace_info.capabilities.worker_heartbeats
    lives = await _heartbeats(client, now) if keeps_heartbeats else {}
    limit = HEARTBEAT_LIMIT if keeps_heartbeats else POLL_LIMIT
    return sum(
        lives.get(each.identity, now - each.last_access_time.ToDatetime(UTC) < limit) for each in described.pollers
    )


async def _heartbeats(client: Client, now: datetime) -> dict[str, bool]:
    """Return for each worker of our queue that has sent a heartbeat, by identity, whether it lives."""
    request = ListWorkersRequest(namespace=client.namespace, query=f"TaskQueue = '{settings().task_queue}'")
    lives: dict[str, bool] = {}
    for each in (await client.workflow_service.list_workers(request)).workers_info:
        beat = each.worker_heartbeat
        alive = (
            beat.status == WorkerStatus.WORKER_STATUS_RUNNING
            and now - beat.heartbeat_time.ToDatetime(UTC) < HEARTBEAT_LIMIT
        )
        lives[beat.worker_identity] = alive or lives.get(beat.worker_identity, False)
    return lives
