"""Requests of retrieval."""

from google.protobuf.message import Message

from myriad.retrieval.v1 import retrieval_pb2 as pb
from tests.support.rows.row import Answer, Names, Owner, Row


def rows() -> dict[str, Row]:
    """By the RPC's name."""
    tenant = Owner.TENANT

    def create(names: Names) -> Message:
        return pb.CreateCollectionRequest(collection=pb.Collection(name=names.collection))

    def upsert(names: Names) -> Message:
        document = pb.Document(document_id=names.document, title="Title", text="Something about refunds.")
        return pb.UpsertDocumentsRequest(collection=names.collection, documents=[document])

    def get(names: Names) -> Message:
        return pb.GetDocumentRequest(collection=names.collection, document_id=names.document)

    def delete(names: Names) -> Message:
        return pb.DeleteDocumentsRequest(collection=names.collection, document_ids=[names.document])

    return {
        "CreateCollection": Row(create, tenant, Answer.THEIR_OWN),
        "ListCollections": Row(lambda _: pb.ListCollectionsRequest(), tenant, Answer.LEFT_OUT),
        "DeleteCollection": Row(lambda names: pb.DeleteCollectionRequest(collection=names.collection), tenant),
        "UpsertDocuments": Row(upsert, tenant),
        "GetDocument": Row(get, tenant),
        "DeleteDocuments": Row(delete, tenant),
        "Search": Row(lambda names: pb.SearchRequest(collections=[names.collection], query="refunds"), tenant),
    }
