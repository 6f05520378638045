"""A run to work on."""

import asyncio
from dataclasses import dataclass

from services.orchestrator.core.live import LiveRun
from services.orchestrator.domain.agent import Agent
from services.orchestrator.domain.run import Answer, Record
from services.orchestrator.domain.turn import Progress, Understanding


@dataclass(frozen=True, slots=True)
class Job:
    """A run to work on.

    Args:
        run: Its log.
        agent: Who answers.
        record: What was asked.
        progress: How far it has come.
        analysis: What the user means, perhaps still on its way.
        answer: What it waited for.
    """

    run: LiveRun
    agent: Agent
    record: Record
    progress: Progress
    analysis: asyncio.Future[Understanding]
    answer: Answer | None = None
