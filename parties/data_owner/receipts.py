"""An answer's receipt on disk: the log's proof, and what its digests are made with.

The proof is for anyone. The other file is the owner's: with the nonce it shows that the
record is of this answer, and it holds the answer itself.
"""

from base64 import b64encode
from dataclasses import asdict
from pathlib import Path

from core.canonical import canonical
from core.receipt import SUFFIX
from core.receipt import Receipt as Proof
from core.wire import to_bytes, write_atomically
from parties.data_owner.answers import Answers


def write_receipt(folder: Path, answers: Answers, proof: Proof, log_key: bytes) -> None:
    """Write REQUEST.tlog-proof and REQUEST.json for the answer to one request.

    `HMAC-SHA256(audit_nonce, result)` is the record's `result_digest`; `result` is
    base64 of the logits as they came, raw little-endian float32.
    """
    (receipt,) = answers.receipts
    said = {
        **asdict(receipt),
        "classes": list(answers.classes),
        "result": b64encode(to_bytes(answers.logits)).decode(),
        "log_public_key": log_key.hex(),
    }
    name = receipt.request_id
    write_atomically(folder / f"{name}{SUFFIX}", proof.to_bytes(), mode=0o644)
    write_atomically(folder / f"{name}.json", canonical(said))
