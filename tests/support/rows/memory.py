"""Requests of memory."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from myriad.common.v1 import common_pb2 as common
from myriad.memory.v1 import memory_pb2 as pb
from myriad.memory.v1 import turn_pb2
from myriad.orchestrator.v1 import run_event_pb2
from tests.support.rows.row import Answer, Names, Owner, Row, an_agent, ref


def rows() -> dict[str, Row]:
    """By the RPC's name."""
    user, tenant = Owner.USER, Owner.TENANT

    def begin(names: Names) -> Message:
        return turn_pb2.BeginTurnRequest(session_id=names.session, lease=Duration(seconds=600), record=b"asked")

    def resume(names: Names) -> Message:
        return turn_pb2.ResumeTurnRequest(session_id=names.session, lease=Duration(seconds=600))

    def commit(names: Names) -> Message:
        said = common.Message(role="ROLE_USER", content="hello")
        event = run_event_pb2.RunEvent(run_id=names.held_run, sequence=1, completed=run_event_pb2.RunCompleted())
        return turn_pb2.CommitTurnRequest(
            run_id=names.held_run,
            fencing_token=names.fencing_token,
            messages=[said],
            last_events=[event.SerializeToString()],
            first_sequence=1,
        )

    def extend(names: Names) -> Message:
        return turn_pb2.ExtendTurnRequest(run_id=names.held_run, fencing_token=names.fencing_token)

    def abandon(names: Names) -> Message:
        event = run_event_pb2.RunEvent(run_id=names.held_run, sequence=1, cancelled=run_event_pb2.RunCancelled())
        return turn_pb2.AbandonTurnRequest(
            run_id=names.held_run,
            fencing_token=names.fencing_token,
            last_events=[event.SerializeToString()],
            first_sequence=1,
        )

    return {
        "CreateSession": Row(lambda names: pb.CreateSessionRequest(agent=names.agent), tenant),
        "GetSession": Row(lambda names: pb.GetSessionRequest(session_id=names.session), user),
        "ListSessions": Row(lambda _: pb.ListSessionsRequest(), user, Answer.LEFT_OUT),
        "DeleteSession": Row(lambda names: pb.DeleteSessionRequest(session_id=names.session), user),
        "CopySession": Row(lambda names: pb.CopySessionRequest(session_id=names.session, request_id="r1"), user),
        "BeginTurn": Row(begin, user),
        "ResumeTurn": Row(resume, user),
        "ExtendTurn": Row(extend, user),
        "CommitTurn": Row(commit, user),
        "AbandonTurn": Row(abandon, user),
        "GetHistory": Row(lambda names: pb.GetHistoryRequest(session_id=names.session), user),
        "GetBudget": Row(
            lambda names: pb.GetBudgetRequest(scope="BUDGET_SCOPE_SESSION", session_id=names.session), user
        ),
        "SetBudget": Row(
            lambda names: pb.SetBudgetRequest(scope="BUDGET_SCOPE_SESSION", session_id=names.session), user
        ),
        "PutAgent": Row(lambda names: pb.PutAgentRequest(agent=an_agent(names.agent)), tenant, Answer.THEIR_OWN),
        "GetAgent": Row(lambda names: pb.GetAgentRequest(agent=ref(names)), tenant),
        "ListAgents": Row(lambda _: pb.ListAgentsRequest(), tenant, Answer.LEFT_OUT),
    }
