"""Requests of orchestrator."""

from myriad.orchestrator.v1 import events_pb2, queue_pb2
from myriad.orchestrator.v1 import orchestrator_pb2 as pb
from tests.support.rows.row import Answer, Owner, Row


def rows() -> dict[str, Row]:
    """By the RPC's name."""
    user, tenant = Owner.USER, Owner.TENANT
    return {
        "CreateSession": Row(lambda names: pb.CreateSessionRequest(agent=names.agent), tenant),
        "GetSession": Row(lambda names: pb.GetSessionRequest(session_id=names.session), user),
        "ListSessions": Row(lambda _: pb.ListSessionsRequest(), user, Answer.LEFT_OUT),
        "DeleteSession": Row(lambda names: pb.DeleteSessionRequest(session_id=names.session), user),
        "RunTurn": Row(
            lambda names: pb.RunTurnRequest(session_id=names.session, input="hello", concurrency="CONCURRENCY_REJECT"),
            user,
        ),
        "CreateRun": Row(lambda names: pb.CreateRunRequest(session_id=names.session, input="hello"), user),
        "CreateRuns": Row(
            lambda names: pb.CreateRunsRequest(requests=[{"session_id": names.session, "input": "hello"}]), user
        ),
        "RespondToRun": Row(
            lambda names: pb.RespondToRunRequest(
                run_id=names.run, approval_token=names.approval_token, approve=pb.Approve(), request_id="r1"
            ),
            user,
        ),
        "ListRuns": Row(lambda names: pb.ListRunsRequest(session_id=names.session), user),
        "WatchRun": Row(lambda names: pb.WatchRunRequest(run_id=names.run), user),
        "GetRun": Row(lambda names: pb.GetRunRequest(run_id=names.run), user),
        "CancelRun": Row(lambda names: pb.CancelRunRequest(run_id=names.run), user),
        "ForkSession": Row(lambda names: pb.ForkSessionRequest(session_id=names.session, request_id="r1"), user),
        "SubmitFeedback": Row(
            lambda names: pb.SubmitFeedbackRequest(run_id=names.run, score=5, text="well", request_id="r1"), user
        ),
        "WatchEvents": Row(lambda _: events_pb2.WatchEventsRequest(after="0"), tenant, Answer.LEFT_OUT, most=1),
        "ListDeadLetters": Row(lambda _: queue_pb2.ListDeadLettersRequest(), tenant, Answer.LEFT_OUT),
        "RedriveDeadLetter": Row(lambda names: queue_pb2.RedriveDeadLetterRequest(run_id=names.run), tenant),
        "GetBudget": Row(
            lambda names: pb.GetBudgetRequest(scope="BUDGET_SCOPE_SESSION", session_id=names.session), user
        ),
        "SetBudget": Row(
            lambda names: pb.SetBudgetRequest(scope="BUDGET_SCOPE_SESSION", session_id=names.session), tenant
        ),
        "GetAgent": Row(lambda names: pb.GetAgentRequest(agent=names.agent), tenant),
        "ListAgents": Row(lambda _: pb.ListAgentsRequest(), tenant, Answer.LEFT_OUT),
    }
