"""Collections: making, listing, deleting, and knowing them without asking each time."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from services.kit.call import Principal
from services.kit.errors import CollectionExists, CollectionNotFound, ResourceExhausted
from services.retrieval.domain import Collection
from services.retrieval.ports import DocumentStore

_REMEMBERED = 10_000


class Collections:
    """The tenants' collections."""

    def __init__(
        self, store: DocumentStore, *, allowed: int, ttl: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Over `store`; a tenant may have `allowed`; `recall` believes what it knows for `ttl` seconds."""
        self._store = store
        self._allowed = allowed
        self._ttl = ttl
        self._monotonic = monotonic
        self._known: OrderedDict[tuple[str, str], tuple[float, Collection]] = OrderedDict()
        self._changes = 0

    async def create(self, principal: Principal, wanted: Collection) -> Collection:
        """Makes a collection, or returns the one that is there.

        Raises:
            CollectionExists: it is there with another scope or description.
            ResourceExhausted: the tenant has as many as it may.
        """
        for there in await self._store.find(principal, [wanted.name]):
            if (there.scope, there.description) != (wanted.scope, wanted.description):
                raise CollectionExists(f"collection {wanted.name} is there with another scope or description")
            return there
        if len(await self._store.collections(principal)) >= self._allowed:
            raise ResourceExhausted(f"the tenant has {self._allowed} collections, and may have no more")
        try:
            return await self._store.create(principal, wanted)
        finally:
            self._forget(principal, wanted.name)

    async def page(self, principal: Principal) -> Sequence[Collection]:
        """The tenant's collections, by name."""
        return await self._store.collections(principal)

    async def delete(self, principal: Principal, name: str) -> None:
        """Deletes a collection and all that is in it. Raises CollectionNotFound."""
        collection = await self.look_up(principal, name)
        try:
            await self._store.drop(principal, collection)
        finally:
            self._forget(principal, name)

    async def look_up(self, principal: Principal, name: str) -> Collection:
        """A collection as it is now. Raises CollectionNotFound."""
        (collection,) = await self._find(principal, [name])
        return collection

    async def recall(self, principal: Principal, names: Sequence[str]) -> Sequence[Collection]:
        """Collections as they were `ttl` seconds ago at most; changes of this process are seen at once.

        Raises:
            CollectionNotFound: names the first that is not there.
        """
        now = self._monotonic()
        known = [self._known.get((principal.tenant, name)) for name in names]
        fresh = [entry[1] for entry in known if entry is not None and entry[0] > now]
        if len(fresh) == len(names):
            return fresh
        changes = self._changes
        found = await self._find(principal, names)
        # What was found may be from before a change made meanwhile.
        if changes == self._changes:
            self._remember(principal, found, now + self._ttl)
        return found

    async def _find(self, principal: Principal, names: Sequence[str]) -> Sequence[Collection]:
        found = {collection.name: collection for collection in await self._store.find(principal, names)}
        missing = next((name for name in names if name not in found), None)
        if missing is not None:
            raise CollectionNotFound(f"there is no collection {missing}")
        return [found[name] for name in names]

    def _remember(self, principal: Principal, collections: Sequence[Collection], until: float) -> None:
        for collection in collections:
            key = principal.tenant, collection.name
            self._known[key] = until, collection
            self._known.move_to_end(key)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def _forget(self, principal: Principal, name: str) -> None:
        self._changes += 1
        self._known.pop((principal.tenant, name), None)
