"""An exported key opens with the recovery key, as docs/keys.md says."""

import re
from pathlib import Path

import pytest

from core.rpc.identity import KEY_HOLDER
from core.sealing import RECOVERY, SealContext, SealingKey, fingerprint, seal
from orchestrator.cli.exporting import write_export
from orchestrator.federation import read_federation
from protos.registry_pb2 import KeyVersion
from protos.workflows_pb2 import ExportKeyResponse
from tests.unit.orchestrator.cli.desk import SCENARIO

DOCUMENT = Path("docs/keys.md").read_text()
MAKE, OPEN = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
FEDERATION = read_federation(SCENARIO)
SEED = bytes(range(32))
ARCHIVE = KeyVersion(
    key_id="archive.digits",
    version=3,
    owner="spiffe://digits.keymixer/archive/data-owner",
    model="digits",
    generator="haar-v1",
)


def test_what_is_exported_opens_as_the_document_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(MAKE, {})  # noqa: S102  # the document's own lines are what is tested
    pinned = bytes.fromhex(capsys.readouterr().out.strip())
    write_export(Path("st-anna.json"), FEDERATION, ARCHIVE, _sealed(pinned))
    names: dict[str, object] = {}
    exec(OPEN, names)  # noqa: S102  # likewise

    assert names["seed"] == SEED
    assert SealingKey.load(Path("recovery.key")).public_bytes() == pinned


def _sealed(recovery_key: bytes) -> ExportKeyResponse:
    """As the key holder seals it."""
    context = SealContext(
        federation=FEDERATION.federation,
        key_holder=str(FEDERATION.only(KEY_HOLDER)),
        owner=ARCHIVE.owner,
        key_id=ARCHIVE.key_id,
        version=ARCHIVE.version,
        generator=ARCHIVE.generator,
        recipient_fingerprint=fingerprint(recovery_key),
        expires_at_ms=253_402_300_799_000,
        purpose=RECOVERY,
    )
    envelope = seal(SEED, recovery_key, context)
    return ExportKeyResponse(envelope=envelope, expires_at_ms=context.expires_at_ms)
