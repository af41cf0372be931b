"""Every decoder of what a stranger may have written, as something to be fuzzed.

A decoder returns, or raises a `KeymixerError`; anything else is a defect. What it
accepts is held to an oracle where there is one: written again, it has the same bytes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from google.protobuf.message import DecodeError

from core.canonical import canonical, parse
from core.checkpoint import open_checkpoint
from core.cosignature import open_cosigned
from core.datasets.files import read_image
from core.duration import parse_duration
from core.errors import KeymixerError
from core.manifest import Manifest
from core.notes import open_note
from core.receipt import parse_receipt
from core.rpc.identity import SpiffeId, parse_private_key
from core.sealing import check_public_key, open_sealed
from core.statements import DestructionReceipt, IssueStatement
from core.wire import dump_tensors, from_bytes, load_tensors, to_bytes
from orchestrator.audit.records import parse_entry
from orchestrator.audit.tiles import decode_bundle, encode_bundle, parse_path
from orchestrator.federation import read_federation
from orchestrator.settings import Settings as OrchestratorSettings
from parties.data_owner.inference import read_answer
from parties.data_owner.settings import OwnerSettings
from parties.data_owner.witnessed import Witnessed
from parties.inference_server.settings import Settings as ServerSettings
from parties.inference_server.store import read_backbone, read_issue
from parties.key_holder.issuing import read_weight
from parties.key_holder.settings import Settings as HolderSettings
from parties.model_provider.settings import ProviderSettings
from protos import open_inference_pb2 as pb
from tests.fuzz import calls, folders
from tests.fuzz import specimens as s

_SIDES: Final = 4


@dataclass(frozen=True, slots=True)
class Target:
    """A decoder, and inputs it takes, to begin with."""

    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]

    def try_on(self, data: bytes) -> None:
        """Return if the decoder does what it promises; raise what it should not."""
        try:
            self.read(data)
        except (KeymixerError, DecodeError):
            # protobuf's own refusal: gRPC reads the message before any code of ours.
            return


def _canonical(data: bytes) -> None:
    assert canonical(parse(data)) == data


def _manifest(data: bytes) -> None:
    assert Manifest.from_bytes(data).to_bytes() == data


def _issue(data: bytes) -> None:
    assert IssueStatement.from_bytes(data).to_bytes() == data


def _destruction(data: bytes) -> None:
    assert DestructionReceipt.from_bytes(data).to_bytes() == data


def _receipt(data: bytes) -> None:
    assert parse_receipt(data).to_bytes() == data


def _entry(data: bytes) -> None:
    assert parse_entry(data).to_bytes() == data


def _bundle(data: bytes) -> None:
    assert encode_bundle(decode_bundle(data)) == data


def _tile(data: bytes) -> None:
    text = data.decode(errors="replace")
    tile = parse_path(text)
    assert tile is None or tile.path == text


def _tensors(data: bytes) -> None:
    tensors = load_tensors(data)
    again = load_tensors(dump_tensors(tensors))
    assert {name: t.tobytes() for name, t in again.items()} == {
        name: t.tobytes() for name, t in tensors.items()
    }


def _blocks(data: bytes) -> None:
    """The first four bytes are the shape."""
    shape, content = tuple(data[:_SIDES]), data[_SIDES:]
    assert to_bytes(from_bytes(content, shape, max_bytes=1 << 16)) == content


def _answer(data: bytes) -> None:
    answer = pb.ModelInferResponse.FromString(data)
    read_answer(s.REQUEST, answer, s.USE, 1 << 16)


def _spiffe(data: bytes) -> None:
    text = data.decode(errors="replace")
    assert str(SpiffeId.parse(text)) == text


_SETTINGS: Final[Mapping[str, Callable[[Path], object]]] = MappingProxyType(
    {
        "inference-server": ServerSettings.read,
        "key-holder": HolderSettings.read,
        "model-provider": ProviderSettings.read,
        "orchestrator": OrchestratorSettings.load,
        "owner": OwnerSettings.read,
    }
)

TARGETS: Final[Mapping[str, Target]] = MappingProxyType(
    {
        "answer": Target(_answer, (s.ANSWER.SerializeToString(),)),
        "backbone": Target(
            lambda data: read_backbone(s.MODEL_VERSION, s.MANIFEST, data), (s.BACKBONE,)
        ),
        "blocks": Target(_blocks, (b"\1\1\1\2" + bytes(8),)),
        "bundle": Target(_bundle, (s.BUNDLE,)),
        "canonical": Target(_canonical, (s.MANIFEST.to_bytes(), s.ENTRY, b"[1,1.5]")),
        "checkpoint": Target(
            lambda data: open_checkpoint(data, s.PUBLIC_KEY, s.LOG), (s.CHECKPOINT,)
        ),
        "cosignature": Target(
            lambda data: open_cosigned(data, s.PUBLIC_KEY, s.WITNESS), (s.COSIGNED,)
        ),
        "destruction": Target(_destruction, (s.DESTRUCTION.to_bytes(),)),
        "duration": Target(
            lambda data: parse_duration(data.decode(errors="replace")),
            (b"90s", b"1.5h", b"2d"),
        ),
        "embedding": Target(read_weight, (s.PLAIN_EMBEDDING,)),
        "entry": Target(_entry, (s.ENTRY,)),
        "envelope": Target(
            lambda data: open_sealed(data, s.SEALING_KEY, s.CONTEXT, now_ms=1),
            (s.ENVELOPE,),
        ),
        "federation": Target(
            folders.in_file("federation.yaml", read_federation), s.FEDERATIONS
        ),
        "image": Target(
            folders.in_file(
                "image.png", lambda path: read_image(path, s.PREPROCESSING)
            ),
            s.IMAGES,
        ),
        "issue": Target(_issue, (s.STATEMENT.to_bytes(),)),
        "issued": Target(lambda data: read_issue(s.STATEMENT, data), (s.ISSUED,)),
        "manifest": Target(
            _manifest,
            tuple(
                each.to_bytes()
                for each in (s.MANIFEST, s.IMPORTED, s.HIGH_PASSED, s.DROWNED)
            ),
        ),
        "note": Target(
            lambda data: open_note(data, s.PUBLIC_KEY, s.LOG), (s.CHECKPOINT,)
        ),
        "private-key": Target(
            lambda data: parse_private_key(data, Path("key")), (s.PRIVATE_KEY,)
        ),
        "receipt": Target(_receipt, (s.RECEIPT.to_bytes(),)),
        "request": Target(calls.request, (s.REQUEST.SerializeToString(),)),
        "sealing-key": Target(check_public_key, (s.SEALING_KEY.public_bytes(),)),
        "spiffe-id": Target(_spiffe, (b"spiffe://demo/ward-one/data-owner",)),
        "tensors": Target(_tensors, (s.ISSUED, s.BACKBONE)),
        "tile": Target(_tile, (b"tile/0/x001/067", b"tile/entries/000.p/3")),
        "witnessed": Target(Witnessed.from_bytes, (s.WITNESSED,)),
        "archive": Target(folders.in_file("cifar.tar", folders.archive), (s.ARCHIVE,)),
        "at-rest": Target(folders.at_rest, (s.AT_REST,)),
        "caller": Target(calls.caller, (b"spiffe://demo/ward-one/data-owner",)),
        "certificate": Target(folders.own_identity, (s.CERTIFICATE,)),
        "certificate-name": Target(folders.certificate_name, (s.CERTIFICATE,)),
        "consistency": Target(calls.consistency, (s.CONSISTENCY,)),
        "database-url": Target(
            folders.database_url,
            s.URLS,
        ),
        "ended": Target(calls.ended, (b"12 KeyRefused: ask again\n250",)),
        "inclusion": Target(calls.inclusion, (s.INCLUSION,)),
        "kek-list": Target(folders.kek_list, (s.KEK_LIST,)),
        "kept-backbone": Target(folders.kept_backbone, (s.KEPT_BACKBONE,)),
        "kept-issue": Target(folders.kept_issue, (s.KEPT_ISSUE,)),
        "keyring": Target(folders.keyring, (s.KEPT_KEY_FILE,)),
        "npz": Target(folders.in_file("data.npz", folders.npz), (s.ARRAYS,)),
        "question": Target(calls.question, (s.QUESTION.SerializeToString(),)),
        "record": Target(calls.record, (s.ENTRY,)),
        "released": Target(calls.released, (s.RELEASED,)),
        "reported": Target(calls.reported, (s.REPORTED.SerializeToString(),)),
        **{
            f"settings-{party}": Target(folders.settings(read), (s.SETTINGS,))
            for party, read in _SETTINGS.items()
        },
        "signing-request": Target(folders.signing_request, (s.SIGNING_REQUEST,)),
        "streamed-answer": Target(
            calls.streamed_answer,
            s.STREAMED_ANSWERS,
        ),
        "streamed-request": Target(calls.streamed_request, (s.STREAMED_REQUEST,)),
        "trace-parent": Target(calls.trace_parent, (s.TRACE_PARENT,)),
    }
)
