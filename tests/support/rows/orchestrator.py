"""Requests of orchestrator."""

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
        "RunTurn": Row(lambda names: pb.RunTurnRequest(session_id=names.session, input="hello"), user),
        "CreateRun": Row(lambda names: pb.CreateRunRequest(session_id=names.session, input="hello"), user),
        "ListRuns": Row(lambda names: pb.ListRunsRequest(session_id=names.session), user),
        "WatchRun": Row(lambda names: pb.WatchRunRequest(run_id=names.run), user),
        "GetRun": Row(lambda names: pb.GetRunRequest(run_id=names.run), user),
        "CancelRun": Row(lambda names: pb.CancelRunRequest(run_id=names.run), user),
        "GetAgent": Row(lambda names: pb.GetAgentRequest(agent=names.agent), tenant),
        "ListAgents": Row(lambda _: pb.ListAgentsRequest(), tenant, Answer.LEFT_OUT),
    }
