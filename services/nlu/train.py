"""Trains an agent's intent model: `python -m services.nlu.train --agent-file FILE --tenant T --models-dir D`.

Exit codes: 0 trained, or there already; 1 Triton does not answer or the model cannot be written; 2 the agent file, or
the command line, is wrong.
"""

import argparse
import asyncio
import sys
import time
from array import array
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

from services.kit.call import Principal
from services.kit.clients import Network
from services.kit.embedder import TritonEmbedder
from services.kit.errors import ServiceError
from services.kit.triton import Triton
from services.nlu.adapters.files import FileIntentModels
from services.nlu.agent import Agent
from services.nlu.config import Config
from services.nlu.intents.artefact import digest
from services.nlu.ports import Embedder
from services.nlu.training.agent_file import AgentFileError, read

_BATCH = 32
_BATCH_TIMEOUT_S = 30.0
_CHECK_S = 2.0
_CHECK_EVERY_S = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        agent = read(options.agent_file)
    except AgentFileError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        asyncio.run(_run(agent, options))
    except ServiceError as error:
        print(f"not trained: {error.message}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"the model cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    return 0


async def _run(agent: Agent, options: argparse.Namespace) -> None:
    network = Network(mesh_token=None)
    try:
        triton = Triton(network.client("triton", options.triton), embedder=options.embedder)
        await train(agent, _Patient(triton, options), options)
    finally:
        await network.close()


class _Patient:
    """Triton's embedder, which may start after us."""

    def __init__(self, triton: Triton, options: argparse.Namespace) -> None:
        self._triton, self._name, self._patience_s = triton, options.embedder, options.patience
        self._embedder = TritonEmbedder(triton, _BATCH_TIMEOUT_S)

    async def embed(self, texts: Sequence[str]) -> "list[array[float]]":
        await self._wait_until_ready()
        return await self._embedder.embed(texts)

    async def _wait_until_ready(self) -> None:
        end = time.monotonic() + self._patience_s
        while True:
            try:
                return await self._triton.check(self._name, _CHECK_S)
            except ServiceError:
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(_CHECK_EVERY_S)


async def train(agent: Agent, embedder: Embedder, options: argparse.Namespace) -> None:
    """Trains the model of an agent and writes it, unless it is there.

    Args:
        agent: The agent.
        embedder: What embeds its examples.
        options: `models_dir`, `tenant`, `embedder` (its name) and `force`.

    Raises:
        ServiceError: the embedder does not answer.
        OSError: the model cannot be written.
    """
    version = digest(agent.intents, options.embedder)
    models = FileIntentModels(options.models_dir, capacity=1)
    principal = Principal(options.tenant, user="trainer")
    if not options.force and await models.load(principal, agent.name, version) is not None:
        print(f"{agent.name}: version {version} is there already")
        return
    began = time.monotonic()
    texts, labels = [], []
    names = tuple(intent.name for intent in agent.intents)
    for place, intent in enumerate(agent.intents):
        for example in dict.fromkeys(intent.examples):
            texts.append(example)
            labels.append(place)
    # scikit-learn takes seconds to import: Triton embeds meanwhile.
    importing = asyncio.to_thread(import_module, "services.nlu.training.fit")
    embeddings, _ = await asyncio.gather(_embed(embedder, texts), importing)
    from services.nlu.training import fit, report

    embedded = time.monotonic()
    examples = fit.Examples(texts, np.array(labels, np.intp), names, embeddings)
    head, evaluation = await asyncio.to_thread(fit.fit, examples, version)
    await models.save(principal, agent.name, head)
    for line in report.lines(head, evaluation, examples):
        print(line)
    print(f"embedded in {embedded - began:.1f} s, fitted in {time.monotonic() - embedded:.1f} s")
    print(f"{agent.name}: version {version}")


async def _embed(embedder: Embedder, texts: Sequence[str]) -> "np.typing.NDArray[np.float32]":
    rows = []
    for start in range(0, len(texts), _BATCH):
        rows += await embedder.embed(texts[start : start + _BATCH])
    return np.array(rows, np.float32)


def _parser() -> argparse.ArgumentParser:
    defaults = Config()
    parser = argparse.ArgumentParser(prog="python -m services.nlu.train", description="Trains an agent's intent model.")
    parser.add_argument("--agent-file", type=Path, required=True, help="the agent, YAML")
    parser.add_argument("--tenant", required=True, help="the tenant it belongs to")
    parser.add_argument("--models-dir", type=Path, default=defaults.models_dir, help="folder of models: %(default)s")
    parser.add_argument("--triton", default=defaults.triton_address, help="host:port of Triton: %(default)s")
    parser.add_argument("--embedder", default=defaults.embedder, help="its embedding model: %(default)s")
    parser.add_argument("--patience", type=float, default=0, help="seconds that Triton may take to answer: %(default)g")
    parser.add_argument("--force", action="store_true", help="train again what is there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
