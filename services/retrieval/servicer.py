"""The contract: messages in, decisions of the core, messages out."""

from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp

from myriad.common.v1 import common_pb2
from myriad.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from services.kit.call import current_principal
from services.retrieval.core.collections import Collections
from services.retrieval.core.documents import Documents
from services.retrieval.core.search import Question, Search
from services.retrieval.domain import Collection, Document, Hit, Mode, Scope
from services.retrieval.ports import Clock


class RetrievalServicer(retrieval_pb2_grpc.RetrievalServiceServicer):
    """myriad.retrieval.v1.RetrievalService."""

    def __init__(self, collections: Collections, documents: Documents, search: Search, clock: Clock) -> None:
        """Answers with what these decide."""
        self._collections = collections
        self._documents = documents
        self._search = search
        self._clock = clock

    async def CreateCollection(
        self, request: retrieval_pb2.CreateCollectionRequest, context: object
    ) -> retrieval_pb2.CreateCollectionResponse:
        """Makes a collection."""
        wanted = Collection(
            name=request.collection.name,
            scope=Scope(request.collection.scope or Scope.TENANT),
            description=request.collection.description,
        )
        made = await self._collections.create(current_principal(), wanted)
        return retrieval_pb2.CreateCollectionResponse(collection=_write_collection(made))

    async def ListCollections(
        self, request: retrieval_pb2.ListCollectionsRequest, context: object
    ) -> retrieval_pb2.ListCollectionsResponse:
        """Lists the tenant's collections."""
        found = await self._collections.page(current_principal())
        return retrieval_pb2.ListCollectionsResponse(collections=map(_write_collection, found))

    async def DeleteCollection(
        self, request: retrieval_pb2.DeleteCollectionRequest, context: object
    ) -> retrieval_pb2.DeleteCollectionResponse:
        """Deletes a collection."""
        await self._collections.delete(current_principal(), request.collection)
        return retrieval_pb2.DeleteCollectionResponse()

    async def UpsertDocuments(
        self, request: retrieval_pb2.UpsertDocumentsRequest, context: object
    ) -> retrieval_pb2.UpsertDocumentsResponse:
        """Writes documents."""
        now = self._clock()
        documents = [
            Document(each.document_id, each.title, each.text, dict(each.metadata), now) for each in request.documents
        ]
        count = await self._documents.upsert(current_principal(), request.collection, documents)
        return retrieval_pb2.UpsertDocumentsResponse(chunk_count=count)

    async def GetDocument(
        self, request: retrieval_pb2.GetDocumentRequest, context: object
    ) -> retrieval_pb2.GetDocumentResponse:
        """Reads a document."""
        found = await self._documents.get(current_principal(), request.collection, request.document_id)
        return retrieval_pb2.GetDocumentResponse(document=_write_document(found))

    async def DeleteDocuments(
        self, request: retrieval_pb2.DeleteDocumentsRequest, context: object
    ) -> retrieval_pb2.DeleteDocumentsResponse:
        """Deletes documents."""
        await self._documents.delete(current_principal(), request.collection, request.document_ids)
        return retrieval_pb2.DeleteDocumentsResponse()

    async def Search(self, request: retrieval_pb2.SearchRequest, context: object) -> retrieval_pb2.SearchResponse:
        """Finds chunks."""
        question = Question(
            collections=list(request.collections),
            text=request.query,
            embedding=list(request.embedding),
            mode=Mode(request.mode or Mode.HYBRID),
            top_k=request.top_k,
            min_score=request.min_score,
            metadata=dict(request.filter),
        )
        hits = await self._search.search(current_principal(), question)
        return retrieval_pb2.SearchResponse(hits=map(_write_citation, hits))


def _write_collection(collection: Collection) -> retrieval_pb2.Collection:
    scope = retrieval_pb2.SCOPE_USER if collection.scope is Scope.USER else retrieval_pb2.SCOPE_TENANT
    return retrieval_pb2.Collection(name=collection.name, scope=scope, description=collection.description)


def _write_document(document: Document) -> retrieval_pb2.Document:
    update_time = Timestamp()
    update_time.FromDatetime(document.update_time.astimezone(UTC).replace(tzinfo=None))
    return retrieval_pb2.Document(
        document_id=document.document_id,
        title=document.title,
        text=document.text,
        metadata=document.metadata,
        update_time=update_time,
    )


def _write_citation(hit: Hit) -> common_pb2.Citation:
    return common_pb2.Citation(
        collection=hit.collection,
        document_id=hit.document_id,
        title=hit.title,
        chunk_id=str(hit.number),
        start=hit.start,
        end=hit.start + len(hit.text),
        text=hit.text,
        score=hit.score,
    )
