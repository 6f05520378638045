"""Tools in the background: they are kept and queued here, and worked on in `background_work`."""

from services.kit import failpoints
from services.kit.call import Principal
from services.kit.errors import FailedPrecondition
from services.kit.failpoints import Point
from services.kit.queue import TOOL_QUEUE, Queue
from services.toolexec.core.background_work import BackgroundWork, Task
from services.toolexec.core.execution import KEEP_RESULT_S, Execution, Executor, approval_of
from services.toolexec.domain import Background, BackgroundCall, CallKey, SideEffect, State
from services.toolexec.ports import Executions

_WAIT_S = 7 * 86_400.0
"""How long a call is kept that nobody has ended: its time in the queue, and a day of running."""


class BackgroundTools:
    """Begins, shows and stops tools in the background."""

    def __init__(self, executor: Executor, executions: Executions, queue: Queue, work: BackgroundWork) -> None:
        """Opens nothing. `work` is what this process itself works on."""
        self._executor = executor
        self._executions = executions
        self._queue = queue
        self._work = work

    async def start(self, principal: Principal, execution: Execution, tool_call_id: str) -> Background:
        """Begins a tool, unless one was begun under the same key. Its result wakes the run.

        Raises:
            FailedPrecondition: the tool does not run in the background.
            RunNotFound: the run is another's.
            QueueFull: the tenant has too many waiting.
            ServiceError: what `Executor.execute` says of a call that is not made.
        """
        made = await self._executor.prepare(principal, execution)
        if not made.tool.background:
            raise FailedPrecondition(f"the tool {made.tool.name} does not run in the background")
        approval = approval_of(made.tool, execution)
        once = made.tool.side_effect is SideEffect.SIDE_EFFECT
        call = BackgroundCall(execution.agent, made.revision, execution.arguments_json, tool_call_id, once)
        found = await self._executions.begin(principal, made.key, call, approval, _WAIT_S)
        await failpoints.reached(Point.TOOL_ACCEPTED)
        if found.state is State.RUNNING:  # also when it was begun before: whoever did may not have come to this
            await self._enqueue(principal, made.key, execution.agent)
        return found

    async def get(self, principal: Principal, key: CallKey) -> Background:
        """How far it is.

        Raises:
            ExecutionNotFound: there is none.
        """
        return await self._executions.read(principal, key)

    async def cancel(self, principal: Principal, key: CallKey) -> None:
        """Stops it, in whichever process it runs, and lets its run know.

        Raises:
            ExecutionNotFound: there is none.
        """
        found = await self._executions.cancel(principal, key, KEEP_RESULT_S)
        self._work.stop(principal, key)
        if found.state is State.CANCELLED:
            await self._enqueue(principal, key, found.call.agent, must=True)

    async def _enqueue(self, principal: Principal, key: CallKey, agent: str, *, must: bool = False) -> None:
        await self._queue.put(TOOL_QUEUE, [Task(principal, key, agent).item()], must=must)
