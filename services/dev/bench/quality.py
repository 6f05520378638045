"""How good the answers' parts are on public data: intents of Banking77, and what a hybrid search of CISI finds.

The data are not part of this repository: the folder named by `MYRIAD_BENCH_DATA` holds `banking77/{train,test}.csv`
(`text,category`; Casanueva et al. 2020, https://arxiv.org/abs/2003.04807) and `cisi/CISI.{ALL,QRY,REL}`.
"""

import asyncio
import csv
import math
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from myriad.common.v1 import agent_pb2
from myriad.nlu.v1 import nlu_pb2, nlu_pb2_grpc
from myriad.retrieval.v1 import retrieval_pb2 as pb
from myriad.retrieval.v1 import retrieval_pb2_grpc
from services.dev import agentfile, agents
from services.dev.agentfile import AgentSource
from services.dev.bench import asking
from services.dev.bench.asking import Bench, Say
from services.dev.bench.section import Section

DATA = "MYRIAD_BENCH_DATA"
AT_ONCE = 16
_AGENT = "banking"
_COLLECTION = "cisi"
_BEST = 10
_CHUNKS = 30
"""Chunks asked for, in which there are ten documents."""

_BATCH = 50
_TITLE_CHARACTERS = 300
_MODES = {"dense": pb.SEARCH_MODE_DENSE, "sparse": pb.SEARCH_MODE_SPARSE, "hybrid": pb.SEARCH_MODE_HYBRID}
_TARGETS = {"intents": ">= 94.5 %", "search": ">= 0.44"}


async def section(work: Path, say: Say) -> Section:
    """Trains and indexes the training data, and asks for the rest.

    Raises:
        KeyError: `MYRIAD_BENCH_DATA` is not set.
        FileNotFoundError: the data are not there.
    """
    data = Path(os.environ[DATA])
    train, test = (_utterances(data / "banking77" / f"{part}.csv") for part in ("train", "test"))
    documents, questions = _texts(data / "cisi" / "CISI.ALL"), _texts(data / "cisi" / "CISI.QRY")
    relevant = _judgements(data / "cisi" / "CISI.REL")
    async with asking.running(work, vertical=True, say=say) as bench:
        say(f"intents: {len(train)} utterances are learned, {len(test)} asked")
        right = await _intents(bench, work / "banking", train, test, say)
        say(f"search: {len(documents)} documents, {len(relevant)} questions")
        await _fill(bench, documents)
        gains = {name: await _search(bench, mode, questions, relevant) for name, mode in _MODES.items()}
    rows = [
        ["", "figure", "target"],
        [f"**Banking77**, right of {len(test):,}", f"**{right:.1%}**", _TARGETS["intents"]],
    ]
    rows += [[f"CISI nDCG@{_BEST}, {name}", f"{gain:.3f}", ""] for name, gain in gains.items()]
    rows[-1] = [f"**{rows[-1][0]}**", f"**{rows[-1][1]}**", _TARGETS["search"]]
    return Section("Quality", _ABOUT, rows)


def _utterances(file: Path) -> list[tuple[str, str]]:
    """Texts and their intents."""
    with file.open(newline="") as lines:
        return [(row["text"], row["category"]) for row in csv.DictReader(lines)]


def _texts(file: Path) -> dict[str, tuple[str, str]]:
    """Title and text by id: `.I` begins an entry, `.T` and `.W` its fields, other letters what is not used."""
    fields: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    number = letter = ""
    for line in file.read_text(errors="replace").splitlines():
        if line.startswith(".I"):
            number = line.split()[1]
        elif len(line.strip()) == 2 and line.startswith("."):
            letter = line[1]
        else:
            fields[number][letter] += line.split()
    return {each: (" ".join(found["T"]), " ".join(found["W"])) for each, found in fields.items()}


def _judgements(file: Path) -> dict[str, set[str]]:
    """The documents that answer each question."""
    found: dict[str, set[str]] = defaultdict(set)
    for line in file.read_text().splitlines():
        question, document = line.split()[:2]
        found[question].add(document)
    return found


async def _intents(
    bench: Bench, folder: Path, train: Iterable[tuple[str, str]], test: Sequence[tuple[str, str]], say: Say
) -> float:
    """The share of utterances whose first intent is theirs."""
    examples: dict[str, list[str]] = defaultdict(list)
    for text, intent in train:
        examples[_name(intent)].append(text)
    intents = [{"name": name, "examples": sorted(set(texts))} for name, texts in examples.items()]
    agent = {"name": _AGENT, "persona": "You help.", "model": {"model": "sim_llm"}, "intents": intents}
    await agents.apply(await asyncio.to_thread(_written, folder, agent), bench.stack.target(), say)
    client = bench.network.client("nlu", bench.stack.address("nlu"))
    stub = nlu_pb2_grpc.NluServiceStub(client.channel)

    async def right(text: str, intent: str) -> bool:
        request = nlu_pb2.AnalyzeRequest(agent=agent_pb2.AgentRef(name=_AGENT), text=text)
        reply = await client.unary(stub.Analyze, request, timeout=asking.TIMEOUT_S)
        return reply.intents[0].name == _name(intent)

    return sum(await _all(right, test)) / len(test)


def _written(folder: Path, agent: Mapping[str, object]) -> AgentSource:
    folder.mkdir()
    (folder / "agent.yaml").write_text(yaml.safe_dump(agent, allow_unicode=True))
    return agentfile.read(folder)


def _name(intent: str) -> str:
    """A label of the data as the name of an intent."""
    return intent.lower().replace("?", "")


async def _fill(bench: Bench, documents: Mapping[str, tuple[str, str]]) -> None:
    client = bench.network.client("retrieval", bench.stack.address("retrieval"))
    stub = retrieval_pb2_grpc.RetrievalServiceStub(client.channel)
    made = pb.CreateCollectionRequest(collection=pb.Collection(name=_COLLECTION))
    await client.unary(stub.CreateCollection, made, timeout=asking.TIMEOUT_S)
    each = [
        pb.Document(document_id=number, title=title[:_TITLE_CHARACTERS], text=text)
        for number, (title, text) in documents.items()
    ]
    for first in range(0, len(each), _BATCH):
        request = pb.UpsertDocumentsRequest(collection=_COLLECTION, documents=each[first : first + _BATCH])
        await client.unary(stub.UpsertDocuments, request, timeout=asking.TIMEOUT_S)


async def _search(
    bench: Bench, mode: pb.SearchMode, questions: Mapping[str, tuple[str, str]], relevant: Mapping[str, set[str]]
) -> float:
    """Mean normalised discounted cumulative gain of the ten best documents, with judgements of yes and no."""
    client = bench.network.client("retrieval", bench.stack.address("retrieval"))
    stub = retrieval_pb2_grpc.RetrievalServiceStub(client.channel)

    async def gain(question: str, documents: set[str]) -> float:
        text = " ".join(questions[question]).strip()
        request = pb.SearchRequest(collections=[_COLLECTION], query=text, top_k=_CHUNKS, mode=mode)
        reply = await client.unary(stub.Search, request, timeout=asking.TIMEOUT_S)
        found = list(dict.fromkeys(hit.document_id for hit in reply.hits))[:_BEST]
        return _dcg(document in documents for document in found) / _dcg([True] * min(len(documents), _BEST))

    return sum(await _all(gain, list(relevant.items()))) / len(relevant)


def _dcg(hits: Iterable[bool]) -> float:
    """Discounted cumulative gain (Järvelin and Kekäläinen 2002), of judgements of yes and no."""
    return sum(hit / math.log2(rank + 2) for rank, hit in enumerate(hits))


async def _all(ask: Callable[..., Awaitable[float]], each: Sequence[tuple[object, ...]]) -> list[float]:
    """What `ask` returns for each, so many at once."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(arguments: tuple[object, ...]) -> float:
        async with gate:
            return await ask(*arguments)

    return await asyncio.gather(*map(one, each))


_ABOUT = f"""
Public data, asked of the services as agents ask them. *Banking77*: 77 intents of a bank's customers, learned from the
training part by `myriad agents apply`; right is whose first intent is the one of the test part. *CISI*: abstracts of
library science, indexed by the retrieval service, and the {_BEST} best documents of each question with judgements.
`{DATA}` names the folder with `banking77/` and `cisi/`.
"""
