"""Requests of orchestrator."""

from myriad.orchestrator.v1 import budgets_pb2, events_pb2, queue_pb2, run_pb2, sessions_pb2
from tests.support.rows.row import Answer, Owner, Row


def rows() -> dict[str, Row]:
    """By the RPC's name."""
    user, tenant = Owner.USER, Owner.TENANT
    return {
        "CreateSession": Row(lambda names: sessions_pb2.CreateSessionRequest(agent=names.agent), tenant),
        "GetSession": Row(lambda names: sessions_pb2.GetSessionRequest(session_id=names.session), user),
        "ListSessions": Row(lambda _: sessions_pb2.ListSessionsRequest(), user, Answer.LEFT_OUT),
        "DeleteSession": Row(lambda names: sessions_pb2.DeleteSessionRequest(session_id=names.session), user),
        "RunTurn": Row(
            lambda names: run_pb2.RunTurnRequest(
                session_id=names.session, input="hello", concurrency="CONCURRENCY_REJECT"
            ),
            user,
        ),
        "CreateRun": Row(lambda names: run_pb2.CreateRunRequest(session_id=names.session, input="hello"), user),
        "CreateRuns": Row(
            lambda names: run_pb2.CreateRunsRequest(requests=[{"session_id": names.session, "input": "hello"}]), user
        ),
        "RespondToRun": Row(
            lambda names: run_pb2.RespondToRunRequest(
                run_id=names.run, approval_token=names.approval_token, approve=run_pb2.Approve(), request_id="r1"
            ),
            user,
        ),
        "ListRuns": Row(lambda names: run_pb2.ListRunsRequest(session_id=names.session), user),
        "WatchRun": Row(lambda names: run_pb2.WatchRunRequest(run_id=names.run), user),
        "GetRun": Row(lambda names: run_pb2.GetRunRequest(run_id=names.run), user),
        "CancelRun": Row(lambda names: run_pb2.CancelRunRequest(run_id=names.run), user),
        "ForkSession": Row(
            lambda names: sessions_pb2.ForkSessionRequest(session_id=names.session, request_id="r1"), user
        ),
        "SubmitFeedback": Row(
            lambda names: run_pb2.SubmitFeedbackRequest(run_id=names.run, score=5, text="well", request_id="r1"), user
        ),
        "WatchEvents": Row(lambda _: events_pb2.WatchEventsRequest(after="0"), tenant, Answer.LEFT_OUT, most=1),
        "ListDeadLetters": Row(lambda _: queue_pb2.ListDeadLettersRequest(), tenant, Answer.LEFT_OUT),
        "RedriveDeadLetter": Row(lambda names: queue_pb2.RedriveDeadLetterRequest(run_id=names.given_up), tenant),
        "GetBudget": Row(
            lambda names: budgets_pb2.GetBudgetRequest(scope="BUDGET_SCOPE_SESSION", session_id=names.session), user
        ),
        "SetBudget": Row(
            lambda names: budgets_pb2.SetBudgetRequest(scope="BUDGET_SCOPE_SESSION", session_id=names.session), tenant
        ),
        "GetAgent": Row(lambda names: sessions_pb2.GetAgentRequest(agent=names.agent), tenant),
        "ListAgents": Row(lambda _: sessions_pb2.ListAgentsRequest(), tenant, Answer.LEFT_OUT),
    }
