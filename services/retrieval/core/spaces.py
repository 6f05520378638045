"""Where rows lie: keys that hold tenant and owner, so that no row is reached without them.

A key is a digest: what a caller chose (a tenant, a user, a name, a value to filter by) never becomes part of an
expression of the store, and two different lists of parts never make one key. Nothing else makes a filter.
"""

from collections.abc import Mapping
from hashlib import blake2b

from services.kit.call import Principal
from services.retrieval.domain import Collection, Scope

KEY_LENGTH = 32
"""Characters of a key: 128 bits in lower-case hexadecimal digits."""


def tenant_key(principal: Principal) -> str:
    """The principal's tenant."""
    return _digest("tenant", principal.tenant)


def registry_key(principal: Principal, name: str) -> str:
    """A collection's entry in the tenant's registry."""
    return _digest("registry", principal.tenant, name)


def collection_key(principal: Principal, collection: Collection) -> str:
    """All rows of a collection, whoever in the tenant wrote them: for deleting the collection, never for reading."""
    return _digest("collection", principal.tenant, collection.name, str(collection.generation))


def space(principal: Principal, collection: Collection) -> str:
    """The rows of a collection that the principal may read, write and delete."""
    parts = ("space", principal.tenant, collection.name, str(collection.generation))
    if collection.scope is Scope.USER:
        return _digest(*parts, "user", principal.user)
    return _digest(*parts, "tenant")


def document_key(space_key: str, document_id: str) -> str:
    """The rows of one document in a space."""
    return _digest("document", space_key, document_id)


def labels(metadata: Mapping[str, str]) -> list[str]:
    """One key for each fact: two documents share it when both have the fact."""
    return sorted(_digest("label", name, value) for name, value in metadata.items())


def _digest(*parts: str) -> str:
    hashed = blake2b(digest_size=KEY_LENGTH // 2)
    for part in parts:
        encoded = part.encode()
        hashed.update(len(encoded).to_bytes(4, "big") + encoded)
    return hashed.hexdigest()
