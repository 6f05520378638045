"""Between the plain types of a turn and the messages of the contract."""

import time
from collections.abc import Sequence

from google.rpc import status_pb2

from myriad.common.v1 import common_pb2
from myriad.nlu.v1 import nlu_pb2
from myriad.orchestrator.v1 import run_event_pb2, run_pb2
from services.kit import status
from services.kit.amounts_codec import write_amounts
from services.kit.errors import ServiceUnavailable
from services.orchestrator import checkpoint
from services.orchestrator.domain.agent import ToolCall
from services.orchestrator.domain.log import (
    ApprovalRequired,
    Cancelled,
    Completed,
    Degraded,
    Event,
    Failed,
    Outcome,
    Queued,
    Restarted,
    Retrieved,
    Routed,
    Started,
    TextDelta,
    ToolFinished,
    ToolStarted,
    Understood,
    Used,
)
from services.orchestrator.domain.run import Answer, CallbackOutcome, Record, Standing
from services.orchestrator.domain.turn import Citation, Progress, Understanding, Usage

_STATES = {
    "completed": run_pb2.RUN_STATE_COMPLETED,
    "failed": run_pb2.RUN_STATE_FAILED,
    "cancelled": run_pb2.RUN_STATE_CANCELLED,
}
_STANDING = {
    Standing.QUEUED: run_pb2.RUN_STATE_QUEUED,
    Standing.AT_WORK: run_pb2.RUN_STATE_RUNNING,
    Standing.WAITING: run_pb2.RUN_STATE_WAITING,
    Standing.OVER: run_pb2.RUN_STATE_FAILED,
    Standing.LOST: run_pb2.RUN_STATE_FAILED,
}
_OUTCOMES = {
    Outcome.OK: run_event_pb2.TOOL_OUTCOME_OK,
    Outcome.ERROR: run_event_pb2.TOOL_OUTCOME_ERROR,
    Outcome.REFUSED: run_event_pb2.TOOL_OUTCOME_REFUSED,
}
_LAST = {"completed", "failed", "cancelled"}


class EventCodec:
    """Log entries are serialised `RunEvent`s."""

    def encode(self, run_id: str, sequence: int, event: Event) -> bytes:
        """The entry of an event, stamped with the time of now."""
        message = run_event_pb2.RunEvent(run_id=run_id, sequence=sequence)
        message.time.FromNanoseconds(time.time_ns())
        _fill(message, event)
        return message.SerializeToString()

    def is_last(self, entry: bytes) -> bool:
        """Whether a log ends with this entry."""
        return run_event_pb2.RunEvent.FromString(entry).WhichOneof("event") in _LAST

    def is_failed(self, entry: bytes) -> bool:
        """Whether an entry says that the run failed."""
        return run_event_pb2.RunEvent.FromString(entry).HasField("failed")

    def is_delta(self, entry: bytes) -> bool:
        """Whether an entry is a piece of the answer."""
        return run_event_pb2.RunEvent.FromString(entry).HasField("text_delta")

    def encode_record(self, record: Record) -> bytes:
        """What was asked, to be kept."""
        return checkpoint.write_record(record)

    def decode_record(self, data: bytes) -> Record:
        """What was asked."""
        return checkpoint.read_record(data)

    def encode_answer(self, answer: Answer) -> bytes:
        """What a run waits for, to be kept."""
        return checkpoint.write_answer(answer)

    def decode_answer(self, data: bytes) -> Answer:
        """What a run waited for."""
        return checkpoint.read_answer(data)

    def encode_progress(self, progress: Progress) -> bytes:
        """A checkpoint, to be kept."""
        return checkpoint.write_progress(progress)

    def decode_progress(self, data: bytes) -> Progress:
        """A checkpoint."""
        return checkpoint.read_progress(data)


def run_of(first: bytes, newest: bytes, standing: Standing) -> run_pb2.Run:
    """The run whose log begins and, so far, ends with these entries, and that stands so."""
    begun, latest = run_event_pb2.RunEvent.FromString(first), run_event_pb2.RunEvent.FromString(newest)
    kind = latest.WhichOneof("event") or ""
    run = run_pb2.Run(
        run_id=begun.run_id,
        state=_STATES.get(kind) or _STANDING[standing],
        agent=begun.started.agent,
        last_sequence=latest.sequence,
        create_time=begun.time,
    )
    if kind not in _LAST and run.state == run_pb2.RUN_STATE_FAILED:
        run.error.CopyFrom(status.to_proto(ServiceUnavailable("nobody works on the run any more")))
    if kind in _LAST:
        run.end_time.CopyFrom(latest.time)
        run.usage.CopyFrom(getattr(latest, kind).usage)
    if run.state == run_pb2.RUN_STATE_QUEUED:
        run.queue_class = latest.queued.queue_class
    if kind == "failed":
        run.error.CopyFrom(latest.failed.error)
    return run


def callback_of(outcome: CallbackOutcome) -> run_pb2.Callback:
    """What became of a run's callback."""
    wire = run_pb2.Callback(
        state=f"CALLBACK_STATE_{outcome.state.upper()}", attempts=outcome.attempts, reason=outcome.reason
    )
    if outcome.end_ms:
        wire.end_time.FromMilliseconds(outcome.end_ms)
    return wire


def _fill(message: run_event_pb2.RunEvent, event: Event) -> None:
    match event:
        case TextDelta(text):
            message.text_delta.text = text
        case Started(agent, revision):
            message.started.agent.name, message.started.agent.revision = agent, revision
        case Understood(understanding):
            message.understood.CopyFrom(_understood(understanding))
        case Retrieved(citations):
            message.retrieved.citations.extend(map(_citation, citations))
            message.retrieved.SetInParent()
        case Routed(model, reason):
            message.routed.CopyFrom(run_event_pb2.RunRouted(model=model, reason=reason))
        case ToolStarted() | ToolFinished() | ApprovalRequired():
            _fill_tool(message, event)
        case Queued(position, queue):
            queue_class = f"QUEUE_CLASS_{queue}" if queue else None
            message.queued.CopyFrom(run_event_pb2.RunQueued(position=position, queue_class=queue_class))
        case Restarted(sequence):
            message.restarted.discard_from_sequence = sequence
        case Degraded(component, reason):
            message.degraded.CopyFrom(run_event_pb2.RunDegraded(component=component, reason=reason))
        case _:
            _fill_usage(message, event)


def _fill_tool(message: run_event_pb2.RunEvent, event: ToolStarted | ToolFinished | ApprovalRequired) -> None:
    match event:
        case ToolStarted(call, background):
            message.tool_started.CopyFrom(run_event_pb2.RunToolStarted(call=tool_call(call), background=background))
        case ToolFinished():
            message.tool_finished.CopyFrom(_tool_finished(event))
        case ApprovalRequired(call, token, reason, expires_ms):
            wire = run_event_pb2.RunApprovalRequired(
                call=tool_call(call),
                approval_token=token,
                reason=f"APPROVAL_REASON_{reason}",
            )
            wire.expire_time.FromMilliseconds(expires_ms)
            message.approval_required.CopyFrom(wire)


def _fill_usage(message: run_event_pb2.RunEvent, event: Event) -> None:
    match event:
        case Used(usage):
            message.usage.CopyFrom(_usage(usage))
        case Completed(answer, usage):
            message.completed.CopyFrom(run_event_pb2.RunCompleted(answer=answer, usage=_usage(usage)))
        case Failed(error, partial, usage):
            wire: status_pb2.Status = status.to_proto(error)
            message.failed.CopyFrom(run_event_pb2.RunFailed(error=wire, partial_answer=partial, usage=_usage(usage)))
        case Cancelled(partial, usage, rolled_back, effects):
            message.cancelled.CopyFrom(
                run_event_pb2.RunCancelled(
                    partial_answer=partial,
                    usage=_usage(usage),
                    rolled_back=rolled_back,
                    tool_effects=map(tool_call, effects),
                )
            )


def tool_call(call: ToolCall) -> common_pb2.ToolCall:
    """A tool call as the contract has it."""
    return common_pb2.ToolCall(tool_call_id=call.id, tool=call.tool, arguments_json=call.arguments_json)


def _understood(understanding: Understanding) -> run_event_pb2.RunUnderstood:
    complexity = understanding.complexity
    return run_event_pb2.RunUnderstood(
        intents=[nlu_pb2.RankedIntent(name=name, confidence=confidence) for name, confidence in understanding.intents],
        out_of_scope=understanding.out_of_scope,
        entities=[
            nlu_pb2.Entity(type=each.type, text=each.text, start=each.start, end=each.end, value=each.value)
            for each in understanding.entities
        ],
        complexity=nlu_pb2.Complexity(
            score=complexity.score,
            tools=complexity.tools,
            multi_step=complexity.multi_step,
            reasoning=complexity.reasoning,
        ),
        language=understanding.language,
    )


def _citation(citation: Citation) -> common_pb2.Citation:
    return common_pb2.Citation(
        collection=citation.collection,
        document_id=citation.document_id,
        title=citation.title,
        chunk_id=citation.chunk_id,
        start=citation.start,
        end=citation.end,
        text=citation.text,
        score=citation.score,
    )


def _tool_finished(event: ToolFinished) -> run_event_pb2.RunToolFinished:
    return run_event_pb2.RunToolFinished(
        tool_call_id=event.call.id,
        tool=event.call.tool,
        outcome=_OUTCOMES[event.outcome],
        result_json=event.result_json,
        reason=event.reason,
    )


def _usage(usage: Usage) -> common_pb2.Usage:
    message = common_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        model_calls=usage.model_calls,
        tool_calls=usage.tool_calls,
        cost_micros=usage.cost_micros,
        remaining=write_amounts(usage.remaining),
    )
    message.elapsed.FromNanoseconds(int(usage.elapsed_s * 1e9))
    return message


def citations_of(hits: Sequence[common_pb2.Citation]) -> tuple[Citation, ...]:
    """Citations as the turn has them."""
    return tuple(
        Citation(
            hit.collection, hit.document_id, hit.title, hit.chunk_id, hit.start, hit.end, hit.text, round(hit.score, 6)
        )
        for hit in hits
    )
