"""Every answer is in the log as its owner saw it, counted once; and the log holds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from core.errors import KeymixerError
from core.rpc.identity import ORCHESTRATOR
from orchestrator.audit.keys import public_log_key
from orchestrator.audit.reading import record_of
from orchestrator.audit.verify import LogReport, verify_log
from orchestrator.audit.writer import SIDE_FILE
from orchestrator.bench.usage import DATABASES
from parties.data_owner.answers import Receipt
from tests.soak.site import Site

_INFERENCE: Final = "inference"
_SAME: Final = (
    "request_id",
    "key_id",
    "key_version",
    "model",
    "model_version",
    "images",
    "request_digest",
    "result_digest",
)


class Unaudited(KeymixerError):
    """An owner has an answer that the log does not have just so, and once."""

    hint = "nothing may be answered that is not on record"


@dataclass(frozen=True, slots=True)
class Recorded:
    """How many records of answers there are, and how many of those nobody took."""

    inferences: int
    not_taken: int


def require_recorded(site: Site, receipts: Sequence[Receipt]) -> Recorded:
    """Compare the owners' receipts with the log. Raises `Unaudited`."""
    with site.stage.operator() as operator:
        found = {
            entry.index: record_of(entry)["subject"]
            for entry in operator.entries(kind=_INFERENCE)
        }
    times = Counter(
        str(subject["request_id"])
        for subject in found.values()
        if not _repeats(subject, found)
    )
    for receipt in receipts:
        _require_one(receipt, found, times)
    return Recorded(len(found), len(found) - len(receipts))


def require_whole(site: Site) -> LogReport:
    """Recompute the log of a site that has stopped. Raises `AuditBroken`."""
    folder = site.workspace.server_folder(ORCHESTRATOR)
    return verify_log(
        folder / DATABASES[ORCHESTRATOR],
        public_log_key(folder),
        side_file=folder / SIDE_FILE,
    )


def _repeats(
    subject: Mapping[str, Any], found: Mapping[int, Mapping[str, Any]]
) -> bool:
    """Whether it is the record of a question that was asked again: it counts nothing.

    Its first answer was recorded and lost on its way; see docs/replicas.md.
    """
    if "repeats" not in subject:
        return False
    first = found.get(int(subject["repeats"]), {})
    if first.get("request_id") != subject["request_id"]:
        raise Unaudited("a record repeats one that is not of its question")
    return True


def _require_one(
    receipt: Receipt, found: Mapping[int, Mapping[str, Any]], times: Counter[str]
) -> None:
    if times[receipt.request_id] != 1:
        raise Unaudited(f"counted {times[receipt.request_id]} times")
    record = found.get(receipt.audit_index, {})
    said = asdict(receipt)
    wrong = [name for name in _SAME if record.get(name) != said[name]]
    if wrong:
        raise Unaudited(f"record {receipt.audit_index} differs: {', '.join(wrong)}")
