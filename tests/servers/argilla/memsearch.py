"""A search engine for Argilla's server that keeps its indexes in memory, for tests.

Argilla builds every query itself, in Elasticsearch's language, and hands it to a dozen transport methods.
This engine inherits the building and answers the queries from dicts: it knows the part of the language that
Argilla sends, and nothing about analysis or scoring (README.md lists the differences).
"""

import copy
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from enum import Enum
from typing import Any, ClassVar

from argilla_server.search_engine.base import SearchEngine  # type: ignore[import-not-found]
from argilla_server.search_engine.commons import (  # type: ignore[import-not-found]
    BaseElasticAndOpenSearchEngine,
    es_field_for_vector_settings,
)

Document = dict[str, Any]
Query = Mapping[str, Any]

_SUGGESTION_REMOVED = re.compile(r'remove\("(.+)"\)')


# the engine ------------------------------------------------------------------------------------------


@SearchEngine.register("memory")
class MemorySearchEngine(BaseElasticAndOpenSearchEngine):  # type: ignore[misc]
    """The transport methods of Argilla's engines, over dicts."""

    # Of the class, because the server makes an engine for every request.
    indexes: ClassVar[dict[str, dict[str, Document]]] = {}

    @classmethod
    async def new_instance(cls) -> "MemorySearchEngine":
        return cls(number_of_shards=1, number_of_replicas=0)

    async def close(self) -> None:
        pass

    async def ping(self) -> bool:
        return True

    async def info(self) -> dict[str, Any]:
        return {"name": "memory", "indexes": {name: len(docs) for name, docs in self.indexes.items()}}

    def _mapping_for_vector_settings(self, vector_settings: Any) -> dict[str, Any]:
        return {es_field_for_vector_settings(vector_settings): {"type": "dense_vector"}}

    async def _create_index_request(self, index_name: str, mappings: Query, settings: Query) -> None:
        self.indexes[index_name] = {}

    async def _delete_index_request(self, index_name: str) -> None:
        self.indexes.pop(index_name, None)

    async def put_index_mapping_request(self, index: str, mappings: Query) -> None:
        pass

    async def _index_exists_request(self, index_name: str) -> bool:
        return index_name in self.indexes

    async def _bulk_op_request(self, actions: Iterable[Mapping[str, Any]]) -> None:
        for action in actions:
            document = copy.deepcopy(dict(action))
            operation, key = document.pop("_op_type"), str(document.pop("_id"))
            documents = self.indexes.setdefault(document.pop("_index"), {})
            if operation == "delete":
                documents.pop(key, None)
            else:
                documents[key] = _plain(document)

    async def _update_document_request(self, index_name: str, id: str, body: Mapping[str, Any]) -> None:
        document = self.indexes.get(index_name, {}).get(id)
        if document is None:
            return
        if "doc" in body:
            _merge(document, _plain(body["doc"]))
        elif isinstance(body["script"], str):
            if removed := _SUGGESTION_REMOVED.search(body["script"]):
                document.get("suggestions", {}).pop(removed[1], None)
        else:
            _replace_response(document, body["script"])

    async def _index_search_request(
        self,
        index: str,
        query: Query,
        size: int | None = None,
        from_: int | None = None,
        sort: Sequence[Mapping[str, Any]] | None = None,
        aggregations: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        scored = [(score(query, document), document) for document in self.indexes.get(index, {}).values()]
        hits = [(value, document) for value, document in scored if value is not None]
        if sort:
            hits = _sorted(hits, sort)
        else:
            hits.sort(key=lambda hit: -hit[0])  # stable: equal scores stay in the order of insertion
        found = [document for _, document in hits]
        start = from_ or 0
        page = hits[start : start + (10 if size is None else size)]
        return {
            "hits": {
                "total": {"value": len(hits)},
                "hits": [
                    {"_id": document["id"], "_score": None if sort else value} for value, document in page
                ],
            },
            "aggregations": {name: _aggregate(spec, found) for name, spec in (aggregations or {}).items()},
        }

    async def _request_similarity_search(
        self,
        index: str,
        vector_settings: Any,
        value: Sequence[float],
        k: int,
        excluded_id: object = None,
        query_filters: Sequence[Query] | None = None,
    ) -> dict[str, Any]:
        hits = []
        for document in self.indexes.get(index, {}).values():
            vector = document.get("vectors", {}).get(str(vector_settings.id))
            if vector is None or document["id"] == str(excluded_id):
                continue
            if all(score(query, document) is not None for query in query_filters or []):
                hits.append({"_id": document["id"], "_score": (1 + _cosine(vector, value)) / 2})
        hits = sorted(hits, key=lambda hit: -hit["_score"])[:k]
        return {"hits": {"total": {"value": len(hits)}, "hits": hits}}


def _merge(document: Document, changes: Document) -> None:
    for key, value in changes.items():
        document[key] = {**document.get(key, {}), **value} if isinstance(value, dict) else value


def _replace_response(document: Document, script: Mapping[str, Any]) -> None:
    """Do what Argilla's two scripts do: drop a response by its id, and, in one of them, add it anew."""
    response = _plain(script["params"]["response"])
    kept = [other for other in document.get("responses", []) if other["id"] != response["id"]]
    document["responses"] = [*kept, response] if ".add(" in script["source"] else kept


def _cosine(left: Sequence[float], right: Sequence[float]) -> float:
    norm = math.hypot(*left) * math.hypot(*right)
    return sum(a * b for a, b in zip(left, right, strict=True)) / (norm or 1.0)


# documents -------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Return `value` as JSON would hold it, which is what a real engine would store."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def values_at(document: Document, path: str) -> list[Any]:
    """Return all leaves under a dotted path, ``*`` being any key, with lists flattened.

    >>> values_at({"fields": {"chat": [{"content": "hi"}, {"content": "ho"}]}}, "fields.*.content")
    ['hi', 'ho']
    """
    nodes: list[Any] = [document]
    for part in path.split("."):
        members = [item for node in nodes for item in (node if isinstance(node, list) else [node])]
        found = [member for member in members if isinstance(member, dict)]
        if part == "*":
            nodes = [item for member in found for item in member.values()]
        else:
            nodes = [member[part] for member in found if member.get(part) is not None]
    return [leaf for node in nodes for leaf in _leaves(node)]


def _leaves(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return [leaf for item in node.values() for leaf in _leaves(item)]
    if isinstance(node, list):
        return [leaf for item in node for leaf in _leaves(item)]
    return [] if node is None else [node]


def _ordinal(value: Any) -> float:
    """Return a number that orders values: numbers as they are, dates by their instant (naive is UTC)."""
    if isinstance(value, str) and not value.lstrip("-").replace(".", "", 1).isdigit():
        value = datetime.fromisoformat(value.replace("Z", "+00:00"))
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    return float(value)


# queries ---------------------------------------------------------------------------------------------


def score(query: Query, document: Document) -> float | None:
    """Return how well a document matches a query, None when it does not.

    >>> score({"terms": {"status": ["pending"]}}, {"status": "pending"})
    1.0
    """
    ((kind, body),) = query.items()
    if kind not in _QUERIES:
        raise NotImplementedError(f"The in-memory engine has no query {kind!r}; it has {sorted(_QUERIES)}.")
    result = _QUERIES[kind](body, document)
    return (1.0 if result else None) if isinstance(result, bool) else result


def _bool(body: Query, document: Document) -> float | None:
    required = [*_listed(body.get("must", [])), *_listed(body.get("filter", []))]
    scores = [score(part, document) for part in required]
    excluded = [score(part, document) for part in _listed(body.get("must_not", []))]
    if None in scores or any(value is not None for value in excluded):
        return None
    optional = [score(part, document) for part in _listed(body.get("should", []))]
    hits = [value for value in optional if value is not None]
    if optional and len(hits) < int(body.get("minimum_should_match", 0 if body.get("must") else 1)):
        return None
    return sum(value for value in (*scores, *hits) if value is not None)


def _listed(part: Any) -> list[Query]:
    return list(part) if isinstance(part, list | tuple) else [part]


def _function_score(body: Query, document: Document) -> float | None:
    if score(body["query"], document) is None:
        return None
    seed = body["functions"][0]["random_score"]["seed"]
    return random.Random(f"{seed}{document['id']}").random()


def _nested(body: Query, document: Document) -> bool:
    path = body["path"]
    elements = document.get(path) or []
    return any(score(body["query"], {**document, path: [element]}) is not None for element in elements)


def _simple_query_string(body: Query, document: Document) -> float | None:
    texts = [str(value).lower() for field in body["fields"] for value in values_at(document, field)]
    words = [word for text in texts for word in re.findall(r"\w+", text)]
    counts = _term_counts(body["query"].lower(), words)
    hits = [(count == 0) if negated else count > 0 for negated, count in counts]
    matches = (any if "|" in body["query"] else all)(hits) if hits else False
    return 1.0 + math.log1p(sum(count for negated, count in counts if not negated)) if matches else None


def _term_counts(text: str, words: Sequence[str]) -> list[tuple[bool, int]]:
    """Return for each term of a query whether it is negated, and how often `words` hold it."""
    counts = []
    for minus, phrase, term in re.findall(r'(-?)(?:"([^"]*)"|([^\s"|+]+))', text):
        parts = re.findall(r"[\w*]+", phrase or term)
        if phrase:
            count = f" {' '.join(words)} ".count(f" {' '.join(parts)} ")
        else:
            count = min((sum(_is_term(part, word) for word in words) for part in parts), default=0)
        if parts:
            counts.append((bool(minus), count))
    return counts


def _is_term(part: str, word: str) -> bool:
    return word.startswith(part[:-1]) if part.endswith("*") else word == part


def _term(body: Query, document: Document) -> bool:
    ((field, wanted),) = body.items()
    return str(_plain(wanted)) in map(str, values_at(document, field))


def _terms(body: Query, document: Document) -> bool:
    ((field, wanted),) = body.items()
    return not {str(_plain(item)) for item in wanted}.isdisjoint(map(str, values_at(document, field)))


def _range(body: Query, document: Document) -> bool:
    ((field, limits),) = body.items()
    low = _ordinal(limits["gte"]) if "gte" in limits else -math.inf
    high = _ordinal(limits["lte"]) if "lte" in limits else math.inf
    return any(low <= _ordinal(value) <= high for value in values_at(document, field))


_QUERIES: Mapping[str, Callable[[Any, Document], float | bool | None]] = {
    "match_all": lambda _body, _document: True,
    "bool": _bool,
    "function_score": _function_score,
    "nested": _nested,
    "simple_query_string": _simple_query_string,
    "exists": lambda body, document: bool(values_at(document, body["field"])),
    "ids": lambda body, document: document["id"] in body["values"],
    "term": _term,
    "terms": _terms,
    "range": _range,
}


# order and aggregations ------------------------------------------------------------------------------


def _sorted(
    hits: list[tuple[float, Document]], sort: Sequence[Mapping[str, Any]]
) -> list[tuple[float, Document]]:
    """Sort hits by several keys; documents without a value come last in either direction."""
    for spec in reversed(sort):
        ((field, options),) = spec.items()
        order = options["order"] if isinstance(options, dict) else options
        keyed = [(_sort_key(field, options, document), (value, document)) for value, document in hits]
        present = sorted(
            ((key, hit) for key, hit in keyed if key is not None),
            key=lambda pair: pair[0],
            reverse=_plain(order) == "desc",
        )
        hits = [hit for _, hit in present] + [hit for key, hit in keyed if key is None]
    return hits


def _sort_key(field: str, options: Any, document: Document) -> Any:
    """Return the mean of a document's numbers, or its first text."""
    if isinstance(options, dict) and (only := options.get("nested", {}).get("filter")):
        responses = document.get("responses", [])
        kept = [item for item in responses if score(only, {"responses": [item]}) is not None]
        document = {**document, "responses": kept}
    values = values_at(document, field)
    if not values:
        return None
    numeric = all(isinstance(value, int | float) for value in values)
    return sum(values) / len(values) if numeric else str(values[0])


def _aggregate(spec: Mapping[str, Any], documents: Sequence[Document]) -> dict[str, Any]:
    ((kind, body),) = spec.items()
    by_document = [values_at(document, body["field"]) for document in documents]
    values = [value for found in by_document for value in found]
    if kind == "value_count":
        return {"value": len(values)}
    if kind == "stats":
        return {"min": min(values, default=None), "max": max(values, default=None)}
    counts = Counter(value for found in by_document for value in set(found))
    top = counts.most_common(body["size"])
    return {"buckets": [{"key": key, "doc_count": count} for key, count in top]}
