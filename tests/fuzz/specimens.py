"""One good example of everything that is decoded; secrets and weights are made up."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image

from core.checkpoint import sign_checkpoint
from core.cosignature import cosign
from core.keys import derive_key
from core.merkle import inclusion_path, leaf_hash, root
from core.orthogonal import GENERATOR
from core.preprocessing import Preprocessing
from core.receipt import Receipt
from core.rpc.identity import new_private_key
from core.sealing import HYBRID, SealContext, SealingKey, fingerprint, seal
from core.statements import DestructionReceipt, IssueStatement
from core.transform import embedding_digest, flatten_embedding
from core.wire import dump_tensors, to_bytes
from orchestrator.audit.records import Entry
from orchestrator.audit.tiles import encode_bundle
from parties.data_owner.inference import Use, request_for
from parties.data_owner.witnessed import Witnessed
from parties.inference_server.store import ModelName
from protos import open_inference_pb2 as pb
from tests.unit.parties.stage import (
    KEY_HOLDER_ID,
    MODEL,
    OWNER_ID,
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
)
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

ENTRY: Final = Entry(
    0, 1, "key.created", str(OWNER_ID), {"key_id": "ward-one-cells", "version": 1}
).to_bytes()
_BODIES: Final = [ENTRY, b"{}", b""]
_LEAVES: Final = [leaf_hash(body) for body in _BODIES]
BUNDLE: Final = encode_bundle(_BODIES)
CHECKPOINT: Final = sign_checkpoint(_SIGNER, LOG, len(_LEAVES), root(_LEAVES))
COSIGNED: Final = cosign(CHECKPOINT, _SIGNER, WITNESS, 1)
RECEIPT: Final = Receipt(0, tuple(inclusion_path(_LEAVES, 0)), CHECKPOINT, ENTRY)
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
PRIVATE_KEY: Final = new_private_key()

FEDERATIONS: Final = tuple(
    path.read_bytes() for path in sorted(Path("deploy/scenarios").glob("*.yaml"))
)


def _picture(kind: str) -> bytes:
    content = io.BytesIO()
    shades = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    Image.fromarray(shades).save(content, kind)
    return content.getvalue()


IMAGES: Final = (_picture("PNG"), _picture("JPEG"))
