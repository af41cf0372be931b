"""Where an answer comes from: request, key, issued model, release, training, data."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from rich.text import Text
from rich.tree import Tree

from core.errors import NotFound, SignatureError
from core.manifest import Manifest
from orchestrator.cli.audit_rows import iso, plain
from orchestrator.operator import Operator
from orchestrator.simulation.sentences import sentence, short
from protos.audit_pb2 import ListEntriesRequest

Record = dict[str, Any]
Fields = dict[str, Any]

# What the log says of each thing; who did it and when is in the records.
_OF_KEY: Final = ("key.created", "key.drawn", "key.confirmed", "key.activated")
_OF_ISSUED: Final = ("issued.prepared", "issued.stored", "issued.live")
_REGISTERED: Final = "model.registered"
_OF_MODEL: Final = (_REGISTERED, "embedding.stored", "backbone.stored")


class RequestUnknown(NotFound):
    """No record of the log names the request."""

    hint = "see `keymixer audit list --kind inference --format csv` for request ids"


class LineageBroken(SignatureError):
    """The registry's release is not the one the log recorded."""

    hint = "keymixer audit verify; then restore the newest registry.db"


def traced(operator: Operator, request_id: str) -> list[Fields]:
    """Follow each record of a request, by ids only, to the data behind the model.

    A requester chooses its ids itself: two may have chosen the same.

    Raises:
        RequestUnknown: there is no such request.
        LineageBroken: a release is not the one that was recorded.
    """
    wanted = (
        ListEntriesRequest(request_id=request_id, kind="inference"),
        ListEntriesRequest(request_id=request_id, refused=True),
    )
    found = [record for each in wanted for record in _records(operator, each)]
    if not request_id or not found:
        raise RequestUnknown(f"the log has no request {request_id!r:.80}")
    found.sort(key=_index)
    return [_followed(operator, record) for record in found]


def tree(request_id: str, traces: Sequence[Fields]) -> Tree:
    """A request and all that it leads to, for the eye."""
    root = Tree(Text(f"request {plain(request_id)}", style="bold"))
    for each in traces:
        branch = root.add(_told(each["record"]))
        for name, thing in each.items():
            if name != "record":
                _grow(branch, name.replace("_", " "), thing)
    return root


def _followed(operator: Operator, record: Record) -> Fields:
    subject = record["subject"]
    release = _release(operator, subject)
    return {
        "record": record,
        "key_version": _key_version(operator, subject),
        "issued_model": _issued_model(operator, subject),
        "model_version": release,
        "training": release and release.pop("lineage"),
    }


def _key_version(operator: Operator, subject: Fields) -> Fields | None:
    key_id, number = subject.get("key_id", ""), _number(subject, "key_version")
    if not key_id:
        return None
    for each in operator.key_versions(key_id):
        if (each.key_id, each.version) == (key_id, number):
            return {
                "key_id": each.key_id,
                "version": each.version,
                "owner": each.owner,
                "state": each.state,
                "generator": each.generator,
                "commitment": each.commitment.hex(),
                "records": _about(operator, subject, _OF_KEY, ("key_version",)),
            }
    return None


def _issued_model(operator: Operator, subject: Fields) -> Fields | None:
    key_id = subject.get("key_id", "")
    wanted = (_number(subject, "key_version"), _number(subject, "model_version"))
    for each in operator.issued(key_id) if key_id else ():
        if (each.key_id, each.key_version, each.model_version) == (key_id, *wanted):
            names = ("key_version", "model_version")
            return {
                "model": each.model,
                "model_version": each.model_version,
                "state": each.state,
                "digest": each.digest.hex(),
                "records": _about(operator, subject, _OF_ISSUED, names),
            }
    return None


def _release(operator: Operator, subject: Fields) -> Fields | None:
    """The model version, its digests, and what its manifest says of its origin."""
    model, number = subject.get("model", ""), _number(subject, "model_version")
    for each in operator.models(model) if model else ():
        if (each.name, each.version) == (model, number):
            manifest = Manifest.from_bytes(each.manifest)
            digest = hashlib.sha256(each.manifest).hexdigest()
            about = {"model": model, "model_version": number}
            records = _about(operator, about, _OF_MODEL, ("model_version",))
            _check_recorded(digest, records)
            return {
                "model": model,
                "version": number,
                "provider": each.provider,
                "manifest_sha256": digest,
                "embedding_sha256": manifest.embedding_digest,
                "backbone_sha256": manifest.backbone_digest,
                "records": records,
                "lineage": dict(manifest.lineage),
            }
    return None


def _check_recorded(digest: str, records: Iterable[Record]) -> None:
    recorded = [r["subject"] for r in records if r["kind"] == _REGISTERED]
    if [each.get("manifest_sha256") for each in recorded] != [digest]:
        raise LineageBroken("the manifest is not the one that was recorded, once")


def _about(
    operator: Operator, subject: Fields, kinds: Sequence[str], names: Sequence[str]
) -> list[Record]:
    """The records of these kinds about the same key or model, and the same `names`."""
    # Parties report a key's facts without its model, and all facts as text.
    key_id = subject.get("key_id", "")
    model = "" if key_id else subject["model"]
    wanted = (
        ListEntriesRequest(kind=kind, key_id=key_id, model=model) for kind in kinds
    )
    found = [
        record
        for each in wanted
        for record in _records(operator, each)
        if all(_number(record["subject"], n) == _number(subject, n) for n in names)
    ]
    return sorted(found, key=_index)


def _records(operator: Operator, wanted: ListEntriesRequest) -> Iterator[Record]:
    return (json.loads(entry.body) for entry in operator.find_entries(wanted))


def _index(record: Record) -> int:
    return int(record["index"])


def _number(subject: Fields, name: str) -> int:
    """A version; -1, which none is, where the record says none."""
    try:
        return int(subject.get(name, -1))
    except ValueError:
        return -1


def _grow(parent: Tree, name: str, thing: object) -> None:
    """Add a thing and what it consists of; what is not known is said."""
    if isinstance(thing, Mapping):
        branch = parent.add(Text(name, style="bold"))
        for inner, value in thing.items():
            _grow(branch, inner, value)
    elif name == "records" and isinstance(thing, list):
        for record in thing:
            parent.add(_told(record))
    else:
        told = "not known" if thing is None else plain(str(thing))
        parent.add(Text.assemble((f"{plain(name)}  ", "dim"), told))


def _told(record: Record) -> Text:
    what = sentence(record["kind"], record["subject"])
    who = short(record["actor"])
    at = iso(record["time_ms"])[:19].replace("T", " ")
    line = f"record {record['index']}  {at}  {who}: {what}"
    return Text(plain(line), overflow="fold")
