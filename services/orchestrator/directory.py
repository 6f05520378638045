"""What the contract passes through to memory."""

from typing import Protocol

from myriad.memory.v1 import memory_pb2


class Directory(Protocol):
    """Sessions and agents, which memory owns: its messages pass through untouched."""

    async def create_session(self, request: memory_pb2.CreateSessionRequest) -> memory_pb2.CreateSessionResponse:
        """Makes a session."""

    async def get_session(self, request: memory_pb2.GetSessionRequest) -> memory_pb2.GetSessionResponse:
        """Reads one."""

    async def list_sessions(self, request: memory_pb2.ListSessionsRequest) -> memory_pb2.ListSessionsResponse:
        """Lists the caller's."""

    async def copy_session(self, request: memory_pb2.CopySessionRequest) -> memory_pb2.CopySessionResponse:
        """Copies one."""

    async def delete_session(self, request: memory_pb2.DeleteSessionRequest) -> memory_pb2.DeleteSessionResponse:
        """Deletes one."""

    async def get_budget(self, request: memory_pb2.GetBudgetRequest) -> memory_pb2.GetBudgetResponse:
        """Reads a budget."""

    async def set_budget(self, request: memory_pb2.SetBudgetRequest) -> memory_pb2.SetBudgetResponse:
        """Writes one."""

    async def get_agent(self, request: memory_pb2.GetAgentRequest) -> memory_pb2.GetAgentResponse:
        """Reads an agent."""

    async def list_agents(self, request: memory_pb2.ListAgentsRequest) -> memory_pb2.ListAgentsResponse:
        """Lists the tenant's."""
