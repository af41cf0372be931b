"""Issuing: what was issued reads encrypted images, and nothing else changes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.architecture import Architecture
from core.blocks import encrypt, to_blocks
from core.errors import CorruptFileError, KeyMismatchError, NotFound
from core.keys import derive_key
from core.orthogonal import GENERATOR
from core.statements import ISSUE, IssueStatement, verify
from core.transform import embedding_digest, flatten_embedding
from core.wire import dump_tensors, load_tensors
from parties.key_holder.errors import KeyDestroyedError
from parties.key_holder.identities import KeyIdentity
from parties.key_holder.issuing import Issue, issue, read_weight
from parties.key_holder.vault import Vault
from tests.unit.parties.stage import (
    MODEL,
    OWNER_ID,
    TINY,
    Release,
    images,
    public,
)
from tests.unit.parties.strongroom import SIGNING_KEY, files, opened, pen


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    with opened(tmp_path) as vault:
        vault.create_key(identity())
        vault.store_embedding(MODEL, 1, Release().embedding)
        yield vault


def identity(**changes: Any) -> KeyIdentity:
    fields: dict[str, Any] = {
        "key_id": "k",
        "version": 1,
        "owner": str(OWNER_ID),
        "model": MODEL,
        "generator": GENERATOR,
        "patch_size": TINY.patch_size,
        "channels": TINY.channels,
    }
    return KeyIdentity(**{**fields, **changes})


def issued(vault: Vault, **changes: Any) -> Issue:
    fields: dict[str, Any] = {
        "key_id": "k",
        "key_version": 1,
        "model": MODEL,
        "model_version": 1,
    }
    return issue(vault, SIGNING_KEY, **{**fields, **changes})


def test_the_issued_embedding_reads_encrypted_blocks_as_the_plain_one_reads_plain(
    vault: Vault,
) -> None:
    """W' (A x) = W x, computed here in float64 from the owner's side."""
    with vault.open_seed("k", 1) as seed:
        key = derive_key(seed, key_id="k", version=1, patch_size=4, channels=3)
    pictures = images(3).astype(np.float64)
    plain = to_blocks(pictures, 4) @ flatten_embedding(Release().weight).T
    transformed = load_tensors(issued(vault).embedding)["weight"]

    np.testing.assert_allclose(plain, encrypt(pictures, key) @ transformed.T, atol=1e-5)


def test_the_issued_embedding_is_not_the_plain_one(vault: Vault) -> None:
    transformed = load_tensors(issued(vault).embedding)["weight"]

    assert np.abs(transformed - flatten_embedding(Release().weight)).max() > 0.05


def test_the_statement_binds_owner_key_model_and_digest(vault: Vault) -> None:
    done = issued(vault)
    verify(public(SIGNING_KEY), ISSUE, done.statement, done.signature)
    transformed = load_tensors(done.embedding)["weight"]
    expected = IssueStatement(
        key_id="k",
        key_version=1,
        owner=str(OWNER_ID),
        model=MODEL,
        model_version=1,
        digest=embedding_digest(transformed).hex(),
        patch_size=TINY.patch_size,
        channels=TINY.channels,
        hidden=TINY.hidden,
    )

    assert expected == IssueStatement.from_bytes(done.statement)


def test_issuing_again_gives_the_same_bytes(vault: Vault) -> None:
    """So a model is prepared and sent without being kept in between."""
    assert issued(vault) == issued(vault)


def test_issuing_leaves_nothing_on_disk(tmp_path: Path, vault: Vault) -> None:
    before = files(tmp_path)
    embedding = issued(vault).embedding
    after = files(tmp_path)

    assert all(embedding[-64:] not in content for content in after.values())
    # SQLite notes there who reads.
    for content in (before, after):
        del content["key-holder.db-shm"]
    assert before == after


def test_an_issue_does_not_print_its_embedding(vault: Vault) -> None:
    assert "embedding" not in repr(issued(vault))


def test_a_destroyed_key_issues_nothing(vault: Vault) -> None:
    vault.destroy_key("k", 1, pen)

    with pytest.raises(KeyDestroyedError):
        issued(vault)


@pytest.mark.parametrize("change", [{"key_version": 2}, {"model_version": 2}])
def test_an_unknown_key_or_model_version_issues_nothing(
    vault: Vault, change: dict[str, Any]
) -> None:
    with pytest.raises(NotFound):
        issued(vault, **change)


def test_a_key_serves_one_model_only(vault: Vault) -> None:
    vault.store_embedding("another", 1, Release().embedding)

    with pytest.raises(KeyMismatchError):
        issued(vault, model="another")


def test_a_key_of_another_block_size_does_not_fit(vault: Vault) -> None:
    vault.create_key(identity(key_id="small", patch_size=2))

    with pytest.raises(KeyMismatchError):
        issued(vault, key_id="small")


def test_a_file_that_is_not_an_embedding_is_corrupt() -> None:
    flat = np.zeros((8, 48), dtype=np.float32)
    oblong = np.zeros((8, 3, 4, 2), dtype=np.float32)
    square = Release(Architecture(hidden=2, patch_size=2)).weight
    for content in (
        b"",
        b"not safetensors",
        dump_tensors({"weight": flat}),
        dump_tensors({"weight": oblong}),
        dump_tensors({"weight": square, "bias": flat}),
    ):
        with pytest.raises(CorruptFileError):
            read_weight(content)
