"""One good example of everything that is decoded; secrets and weights are made up."""

import io
import json
import tarfile
import tempfile
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image

from core.canonical import canonical
from core.card import Card, Figure
from core.checkpoint import sign_checkpoint
from core.cosignature import cosign
from core.keys import derive_key
from core.merkle import consistency_path, inclusion_path, leaf_hash, root
from core.orthogonal import GENERATOR
from core.preprocessing import Preprocessing
from core.receipt import Receipt
from core.rpc.identity import create_identity
from core.sealing import HYBRID, SealContext, SealingKey, fingerprint, seal
from core.shield import HighPass, Noise, shielded
from core.statements import DestructionReceipt, IssueStatement
from core.transform import embedding_digest, flatten_embedding
from core.wire import dump_tensors, to_bytes
from orchestrator.audit.records import Entry
from orchestrator.audit.tiles import encode_bundle
from orchestrator.certificates import DevelopmentCA
from parties.data_owner.inference import Use, request_for
from parties.data_owner.keyring import KeyFacts, Keyring
from parties.data_owner.witnessed import Witnessed
from parties.inference_server.store import ModelName
from parties.key_holder.at_rest import KeyEncryptionKey, seal_record
from protos import audit_pb2, bulk_pb2
from protos import open_inference_pb2 as pb
from tests.unit.parties.stage import (
    KEY_HOLDER_ID,
    MODEL,
    ORCHESTRATOR_ID,
    OWNER_ID,
    SERVER_ID,
    TINY,
    Release,
)

LOG: Final = "demo/keymixer-audit"
WITNESS: Final = "demo/ward-one/data-owner"

# Fixed, so that an input which was kept means the same in the next run.
_SIGNER: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC_KEY: Final = _SIGNER.public_key().public_bytes_raw()

_RELEASE: Final = Release(provider_key=_SIGNER)
MODEL_VERSION: Final = ModelName(MODEL, 1)
MANIFEST: Final = _RELEASE.manifest
# Says all that a manifest may leave out.
IMPORTED: Final = replace(
    MANIFEST,
    architecture=replace(MANIFEST.architecture, activation="relu"),
    preprocessing=replace(MANIFEST.preprocessing, resize=MANIFEST.architecture.height),
    public_embedding=True,
    leakage=Card(
        *("random orthogonal", 9, 24, 1000),
        (Figure("norm map", "one picture", 24, 18.8, 0.59, 0.39, 0.77),),
    ),
)
# Two whose models read what a shield leaves.
_HIGH_PASS: Final = HighPass.of(np.eye(TINY.dimension, dtype=np.float32)[:2], 4)
HIGH_PASSED: Final = replace(
    MANIFEST, architecture=shielded(TINY, _HIGH_PASS), shield=_HIGH_PASS
)
_NOISE: Final = Noise(TINY.patch_size, 0.1, MANIFEST.preprocessing.std)
DROWNED: Final = replace(MANIFEST, architecture=shielded(TINY, _NOISE), shield=_NOISE)
BACKBONE: Final = _RELEASE.backbone
PLAIN_EMBEDDING: Final = _RELEASE.embedding
PREPROCESSING: Final[Preprocessing] = MANIFEST.preprocessing

_WEIGHT: Final = flatten_embedding(_RELEASE.weight)
ISSUED: Final = dump_tensors({"weight": _WEIGHT})
STATEMENT: Final = IssueStatement(
    key_id="ward-one-cells",
    key_version=1,
    owner=str(OWNER_ID),
    model=MODEL,
    model_version=1,
    digest=embedding_digest(_WEIGHT).hex(),
    patch_size=TINY.patch_size,
    channels=TINY.channels,
    hidden=TINY.hidden,
)
DESTRUCTION: Final = DestructionReceipt(
    "ward-one-cells", 1, "ab" * 32, 1, "the key holder's rows", "backups"
)

_KEY: Final = derive_key(
    bytes(32),
    key_id=STATEMENT.key_id,
    version=1,
    patch_size=TINY.patch_size,
    channels=TINY.channels,
)
USE: Final = Use(_KEY, MODEL, 1, MANIFEST)
_BLOCKS: Final = np.ones((2, TINY.rows, TINY.columns, TINY.dimension), np.float32)
REQUEST: Final = request_for(_BLOCKS, USE)
REQUEST.id = "request-1"
ANSWER: Final = pb.ModelInferResponse(
    model_name=REQUEST.model_name,
    model_version=REQUEST.model_version,
    id=REQUEST.id,
    parameters={
        "audit_index": pb.InferParameter(int64_param=3),
        "audit_nonce": pb.InferParameter(string_param="ab" * 32),
    },
    outputs=[
        pb.ModelInferResponse.InferOutputTensor(
            name="logits", datatype="FP32", shape=[2, TINY.classes]
        )
    ],
    raw_output_contents=[to_bytes(np.ones((2, TINY.classes), np.float32))],
)

STREAMED_REQUEST: Final = bulk_pb2.InferStreamRequest(
    request=REQUEST
).SerializeToString()
STREAMED_ANSWERS: Final = (
    bulk_pb2.InferStreamResponse(answer=ANSWER).SerializeToString(),
    *(
        bulk_pb2.InferStreamResponse(
            error=bulk_pb2.InferError(
                request_id=REQUEST.id, kind=kind, code=8, retry_after_s=0.5
            )
        ).SerializeToString()
        for kind in ("KeyRefused", "QueueFull")
    ),
)
REPORTED: Final = audit_pb2.RecordEventsRequest(
    events=[
        audit_pb2.Event(
            kind="refused", caller=str(OWNER_ID), subject={"kind": "Truncated"}
        )
    ]
)
RELEASED: Final = audit_pb2.RecordInferencesRequest(
    records=[
        audit_pb2.InferenceRecord(
            owner=str(OWNER_ID),
            key_id=STATEMENT.key_id,
            images=1,
            request_digest=bytes(32),
            result_digest=bytes(32),
        )
    ]
).SerializeToString()
TRACE_PARENT: Final = f"00-{'ab' * 16}-{'cd' * 8}-01".encode()
URLS: Final = (b"postgresql://me@host:5/name?answer_s=4", b"sqlite:////srv/a.db")
QUESTION: Final = audit_pb2.ListEntriesRequest(owner=str(OWNER_ID), limit=5)

ENTRY: Final = Entry(
    0, 1, "key.created", str(OWNER_ID), {"key_id": "ward-one-cells", "version": 1}
).to_bytes()
_BODIES: Final = [ENTRY, b"{}", b""]
LEAVES: Final = [leaf_hash(body) for body in _BODIES]
ROOT: Final = root(LEAVES)
BUNDLE: Final = encode_bundle(_BODIES)
CHECKPOINT: Final = sign_checkpoint(_SIGNER, LOG, len(LEAVES), ROOT)
COSIGNED: Final = cosign(CHECKPOINT, _SIGNER, WITNESS, 1)
RECEIPT: Final = Receipt(0, tuple(inclusion_path(LEAVES, 0)), CHECKPOINT, ENTRY)
INCLUSION: Final = bytes([0, len(LEAVES)]) + b"".join(inclusion_path(LEAVES, 0))
CONSISTENCY: Final = bytes([1, len(LEAVES)]) + b"".join(consistency_path(LEAVES, 1))
WITNESSED: Final = Witnessed.verified(CHECKPOINT, PUBLIC_KEY, LOG).to_bytes()

SEALING_KEY: Final = SealingKey(HYBRID, bytes(range(32)))
CONTEXT: Final = SealContext(
    federation="demo",
    key_holder=str(KEY_HOLDER_ID),
    owner=str(OWNER_ID),
    key_id=STATEMENT.key_id,
    version=1,
    generator=GENERATOR,
    recipient_fingerprint=fingerprint(SEALING_KEY.public_bytes()),
    expires_at_ms=2,
)
ENVELOPE: Final = seal(bytes(32), SEALING_KEY.public_bytes(), CONTEXT)


def _der(pem: bytes) -> bytes:
    return b64decode(b"".join(pem.splitlines()[1:-1]))


with tempfile.TemporaryDirectory() as _folder:
    _CA: Final = DevelopmentCA.create(Path(_folder))
    _home = Path(_folder) / "owner"
    _request = create_identity(_home, OWNER_ID)
    PRIVATE_KEY: Final = (_home / "identity.key").read_bytes()
    _ring = Keyring(_home)
    (_home / "kek.key").write_bytes(bytes(32))
    (_home / "kek.key").chmod(0o600)
    _ring.add(
        KeyFacts(_KEY.key_id, 1, MODEL, GENERATOR, TINY.patch_size, TINY.channels),
        bytes(32),
    )
    KEPT_KEY_FILE: Final = _ring._path(_KEY.key_id, 1).read_bytes()
KEPT_KEY: Final = json.loads(KEPT_KEY_FILE)
SIGNING_REQUEST: Final = _der(_request)
CERTIFICATE: Final = _der(_CA.sign(_request, OWNER_ID))
AUTHORITY: Final = _CA.ca_pem

KEPT_ISSUE: Final = canonical(
    {
        "statement": STATEMENT.to_bytes().decode(),
        "signature": "ab" * 64,
        "signer": str(KEY_HOLDER_ID),
    }
)
KEPT_BACKBONE: Final = canonical(
    {"model": MODEL, "model_version": 1, "manifest": MANIFEST.to_bytes().decode()}
)


def _at_rest() -> bytes:
    kek = KeyEncryptionKey(bytes(range(32)))
    record = seal_record(kek, b"identity", b"content", bytes)
    return bytes([len(record.wrapped)]) + record.wrapped + record.sealed


AT_REST: Final = _at_rest()
KEK_LIST: Final = json.dumps(
    {"in_use": "a", "keks": [{"id": "a", "url": "file:kek.key", "since_ms": 1}]}
).encode()
_PEERS: Final = {
    name: {"address": "127.0.0.1:1", "spiffe_id": str(who)}
    for name, who in (
        ("orchestrator", ORCHESTRATOR_ID),
        ("key_holder", KEY_HOLDER_ID),
        ("inference_server", SERVER_ID),
    )
}
SETTINGS: Final = json.dumps(
    {
        "federation": "demo",
        "listen": "127.0.0.1:0",
        "inference_servers": [_PEERS["inference_server"]],
        "parties": [{"spiffe_id": str(OWNER_ID)}],
        "limit": {"max_images": 2},
        "limits": {str(OWNER_ID): {"images_per_s": 2.5, "burst": 9}},
        "policies": {"budget": {"max_images": 5}},
        "engine": "auto",
        "metrics": "127.0.0.1:9",
        "datatype": "uint8",
        "resend_unsure": True,
        "log_public_key": "ab" * 32,
        "max_waiting": 5,
        "max_staleness_s": 2,
        "lease_s": 3,
        "recovery_key": SEALING_KEY.public_bytes().hex(),
        **_PEERS,
    }
).encode()


def _arrays() -> bytes:
    content = io.BytesIO()
    images, labels = np.zeros((10, 4, 4, 3), np.uint8), np.arange(10) % 2
    np.savez(content, images=images, labels=labels, classes=np.array(["a", "b"]))
    return content.getvalue()


def _tar() -> bytes:
    content = io.BytesIO()
    names = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(f"cifar/{name}"), io.BytesIO())
    return content.getvalue()


ARRAYS: Final = _arrays()
ARCHIVE: Final = _tar()

FEDERATIONS: Final = tuple(
    path.read_bytes() for path in sorted(Path("deploy/scenarios").glob("*.yaml"))
)


def _picture(kind: str) -> bytes:
    content = io.BytesIO()
    shades = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    Image.fromarray(shades).save(content, kind)
    return content.getvalue()


IMAGES: Final = (_picture("PNG"), _picture("JPEG"))
