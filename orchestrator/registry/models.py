"""Who is who, what may run, what ran: the tables, whose constraints are the rules."""

from enum import StrEnum
from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from orchestrator.registry.lifecycle import (
    OPEN_JOBS,
    ApprovalState,
    IssuedState,
    JobState,
    KeyState,
    PartyState,
    Period,
)

NAMES: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

# Of a job or an approval, in bytes: room for names and numbers, not for pictures.
LONGEST_ARGUMENTS: Final = 1 << 16
# Of a checkpoint with a cosignature, in bytes: long names fit.
LONGEST_COSIGNED: Final = 1 << 12


class Base(DeclarativeBase):
    """Every table; times are milliseconds since the epoch, digests are raw bytes."""

    metadata = MetaData(naming_convention=NAMES)


def _one_of(column: str, words: type[StrEnum]) -> CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


def _bytes_long(column: str, length: int) -> CheckConstraint:
    return CheckConstraint(f"length({column}) = {length}", name=f"{column}_length")


def _bytes_at_most(column: str, length: int) -> CheckConstraint:
    return CheckConstraint(f"length({column}) <= {length}", name=f"{column}_bounded")


def _counter(*rules: CheckConstraint) -> Mapped[int]:
    """A number that starts at zero, in rows that are older than it too."""
    return mapped_column(BigInteger, *rules, default=0, server_default="0")


class Organisation(Base):
    """A legal person with one or more parties."""

    __tablename__ = "organisations"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)


class Party(Base):
    """One role of one organisation, known by its SPIFFE ID."""

    __tablename__ = "parties"
    __table_args__ = (
        _one_of("state", PartyState),
        _bytes_long("signing_key", 32),
        Index("ix_parties_revision", "revision"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    spiffe_id: Mapped[str] = mapped_column(String(512), unique=True)
    organisation_id: Mapped[int] = mapped_column(ForeignKey("organisations.id"))
    role: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16), default=PartyState.ACTIVE)
    # Ed25519, raw; None until the party registers it.
    signing_key: Mapped[bytes | None] = mapped_column(LargeBinary)
    # As `core.sealing` writes it; None for a party that no key is sealed to.
    sealing_key: Mapped[bytes | None] = mapped_column(LargeBinary)
    # The log's size when `state` last changed: who asks "since when?" gets it by this.
    revision: Mapped[int] = _counter()
    created_at_ms: Mapped[int] = mapped_column(BigInteger)

    organisation: Mapped[Organisation] = relationship()


class Model(Base):
    """A named model of one provider; what runs are its versions."""

    __tablename__ = "models"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    provider_party_id: Mapped[int] = mapped_column(ForeignKey("parties.id"))

    provider: Mapped[Party] = relationship()


class ModelVersion(Base):
    """One immutable release: signed manifest, digests of its files, its lineage."""

    __tablename__ = "model_versions"
    __table_args__ = (
        UniqueConstraint("model_id", "version"),
        CheckConstraint("version >= 1", name="version_positive"),
        _bytes_long("manifest_digest", 32),
        _bytes_long("signature", 64),
        _bytes_long("embedding_digest", 32),
        _bytes_long("backbone_digest", 32),
        CheckConstraint("parent_id <> id", name="parent_is_another"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    version: Mapped[int]
    manifest: Mapped[bytes] = mapped_column(LargeBinary)
    manifest_digest: Mapped[bytes] = mapped_column(LargeBinary)
    signature: Mapped[bytes] = mapped_column(LargeBinary)
    embedding_digest: Mapped[bytes] = mapped_column(LargeBinary)
    backbone_digest: Mapped[bytes] = mapped_column(LargeBinary)
    # True if the plain embedding was ever published: keys then hide nothing.
    public_embedding: Mapped[bool] = mapped_column(default=False)
    # Since when the plain embedding must be presumed known: a key for it has leaked.
    exposed_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    # The version this one was trained on from.
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("model_versions.id"))
    created_at_ms: Mapped[int] = mapped_column(BigInteger)

    model: Mapped[Model] = relationship()
    parent: Mapped["ModelVersion | None"] = relationship(remote_side="ModelVersion.id")


class ModelAlias(Base):
    """A name such as `champion` that moves between the versions of one model."""

    __tablename__ = "model_aliases"
    __table_args__ = (
        # Both columns, so that an alias cannot point to another model's version.
        ForeignKeyConstraint(
            ["model_id", "version"],
            ["model_versions.model_id", "model_versions.version"],
        ),
    )

    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int]

    model: Mapped[Model] = relationship()


class Key(Base):
    """One owner's key for one model; its versions come and go, its id stays."""

    __tablename__ = "keys"
    __table_args__ = (
        UniqueConstraint("owner_party_id", "model_id"),
        CheckConstraint("patch_size >= 1", name="patch_size_positive"),
        CheckConstraint("channels >= 1", name="channels_positive"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(String(64), unique=True)
    owner_party_id: Mapped[int] = mapped_column(ForeignKey("parties.id"))
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    patch_size: Mapped[int]
    channels: Mapped[int]
    # Why an operator holds the key, its versions to come too; None: nobody does.
    held_for: Mapped[str | None] = mapped_column(Text)

    owner: Mapped[Party] = relationship()
    model: Mapped[Model] = relationship()


class KeyVersion(Base):
    """One version of a key: its public commitment and its state, never the key.

    A primary version is active or suspended: whoever retires or revokes one clears
    `is_primary` in the same flush, before another version takes it.
    """

    __tablename__ = "key_versions"
    __table_args__ = (
        UniqueConstraint("key_pk", "version"),
        CheckConstraint("version >= 1", name="version_positive"),
        _one_of("state", KeyState),
        _bytes_long("commitment", 32),
        CheckConstraint(
            "NOT is_primary OR state IN ('active', 'suspended')",
            name="primary_serves",
        ),
        CheckConstraint(
            "NOT confirmed OR commitment IS NOT NULL", name="confirmed_after_drawn"
        ),
        CheckConstraint(
            "state NOT IN ('active', 'retiring') OR confirmed",
            name="usable_only_confirmed",
        ),
        CheckConstraint(
            "state <> 'retiring' OR retire_at_ms IS NOT NULL", name="retiring_ends"
        ),
        CheckConstraint("overlap_s >= 0", name="overlap_not_negative"),
        # Asked for several times a second.
        Index("ix_key_versions_revision", "revision"),
        Index(
            "uq_key_versions_one_primary",
            "key_pk",
            unique=True,
            sqlite_where=text("is_primary"),
            postgresql_where=text("is_primary"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    key_pk: Mapped[int] = mapped_column(ForeignKey("keys.id"))
    version: Mapped[int]
    # Both None until the key holder has drawn the seed.
    generator: Mapped[str | None] = mapped_column(String(64))
    commitment: Mapped[bytes | None] = mapped_column(LargeBinary)
    state: Mapped[str] = mapped_column(String(32))
    is_primary: Mapped[bool] = mapped_column(default=False)
    # The owner has proved that it holds the key.
    confirmed: Mapped[bool] = mapped_column(default=False)
    # How long the version this one replaces is still served.
    overlap_s: Mapped[float] = mapped_column(default=0.0)
    retire_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    # The end of the window in which a destruction can be taken back.
    destroy_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    # How many images were answered under it; counted with each record.
    images_used: Mapped[int] = _counter(
        CheckConstraint("images_used >= 0", name="images_not_negative")
    )
    # The log's size when `state` last changed, as in `Party`.
    revision: Mapped[int] = _counter()
    reason: Mapped[str] = mapped_column(Text, default="")
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    changed_at_ms: Mapped[int] = mapped_column(BigInteger)

    key: Mapped[Key] = relationship()


class Grant(Base):
    """An owner may use a model, until `revoked_at_ms` and within its budget."""

    __tablename__ = "grants"
    __table_args__ = (
        UniqueConstraint("owner_party_id", "model_id"),
        CheckConstraint("revoked_at_ms >= created_at_ms", name="revoked_after_created"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    owner_party_id: Mapped[int] = mapped_column(ForeignKey("parties.id"))
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    revoked_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    # How many images may be answered in a period; None: no limit.
    max_images: Mapped[int | None] = mapped_column(
        BigInteger, CheckConstraint("max_images >= 0", name="max_images_not_negative")
    )
    budget_period: Mapped[str] = mapped_column(
        String(8),
        _one_of("budget_period", Period),
        default=Period.TOTAL,
        server_default=Period.TOTAL,
    )
    # When the period began that `images_used` counts; 0: with the grant.
    period_start_ms: Mapped[int] = _counter()
    # Counted with each record; whoever counts wrongly is refused by the database.
    images_used: Mapped[int] = _counter(
        CheckConstraint(
            "images_used >= 0 AND images_used <= max_images", name="within_budget"
        )
    )

    owner: Mapped[Party] = relationship()
    model: Mapped[Model] = relationship()


class IssuedModel(Base):
    """One embedding transformed for one key version and one model version."""

    __tablename__ = "issued_models"
    __table_args__ = (
        UniqueConstraint("key_version_id", "model_version_id"),
        _one_of("state", IssuedState),
        _bytes_long("digest", 32),
        _bytes_long("signature", 64),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    key_version_id: Mapped[int] = mapped_column(ForeignKey("key_versions.id"))
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_versions.id"))
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    # RFC 8785 canonical JSON, signed by the key holder; see `core.statements`.
    statement: Mapped[bytes] = mapped_column(LargeBinary)
    signature: Mapped[bytes] = mapped_column(LargeBinary)
    state: Mapped[str] = mapped_column(String(16), default=IssuedState.PENDING)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    # The log's record that it went live, the last time; None if it never did.
    live_index: Mapped[int | None] = mapped_column(BigInteger)

    key_version: Mapped[KeyVersion] = relationship()
    model_version: Mapped[ModelVersion] = relationship()


class Job(Base):
    """One workflow on one subject: where it stands, and who works on it now.

    A step ends in one transaction: the job's next step, what the step changed and its
    audit record. `fence` grows with every lease: who lost a lease writes nothing.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        _one_of("state", JobState),
        _bytes_at_most("arguments", LONGEST_ARGUMENTS),
        CheckConstraint("fence >= 0", name="fence_not_negative"),
        CheckConstraint("attempts >= 0", name="attempts_not_negative"),
        CheckConstraint(
            "(lease_holder IS NULL) = (lease_until_ms IS NULL)", name="lease_is_whole"
        ),
        # One open job a subject: a second request finds the first, and is refused.
        Index(
            "uq_jobs_one_open",
            "subject",
            unique=True,
            sqlite_where=text(OPEN_JOBS),
            postgresql_where=text(OPEN_JOBS),
        ),
        Index("ix_jobs_due", "state", "next_at_ms"),
        Index("ix_jobs_parent_id", "parent_id"),
        Index("ix_jobs_key_version_id", "key_version_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    # `key:<key id>`, `key:<key id>/<version>`, `model:<name>/<version>`, ...
    subject: Mapped[str] = mapped_column(String(255))
    state: Mapped[str] = mapped_column(String(16), default=JobState.READY)
    step: Mapped[str] = mapped_column(String(32))
    # RFC 8785 canonical JSON: what the steps need to know.
    arguments: Mapped[bytes] = mapped_column(LargeBinary)
    key_version_id: Mapped[int | None] = mapped_column(ForeignKey("key_versions.id"))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("jobs.id"))
    # The operator, or the orchestrator when a policy asked for it.
    created_by: Mapped[str] = mapped_column(String(512))
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    changed_at_ms: Mapped[int] = mapped_column(BigInteger)
    # Not before this; None: only when something happens that it waits for.
    next_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    # How often the present step has failed.
    attempts: Mapped[int] = mapped_column(default=0)
    # Why it waits, or failed last; for people.
    why: Mapped[str] = mapped_column(Text, default="")
    lease_holder: Mapped[str | None] = mapped_column(String(64))
    lease_until_ms: Mapped[int | None] = mapped_column(BigInteger)
    fence: Mapped[int] = mapped_column(BigInteger, default=0)

    key_version: Mapped[KeyVersion | None] = relationship()
    parent: Mapped["Job | None"] = relationship(remote_side="Job.id")


class Approval(Base):
    """A request that two different operators must want; see `ApprovalVote`."""

    __tablename__ = "approvals"
    __table_args__ = (
        _one_of("state", ApprovalState),
        _bytes_at_most("arguments", LONGEST_ARGUMENTS),
        CheckConstraint("expires_at_ms > created_at_ms", name="expires_later"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    action: Mapped[str] = mapped_column(String(32))
    # RFC 8785 canonical JSON: exactly what was asked for, and what will be done.
    arguments: Mapped[bytes] = mapped_column(LargeBinary)
    # An operator; the orchestrator, which has no vote, if a policy asked for it.
    requested_by: Mapped[str] = mapped_column(String(512))
    state: Mapped[str] = mapped_column(String(16), default=ApprovalState.PENDING)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)
    changed_at_ms: Mapped[int] = mapped_column(BigInteger)
    # The job that waits for it; None: it is done when it is approved.
    job_id: Mapped[int | None] = mapped_column(ForeignKey("jobs.id"))

    votes: Mapped[list["ApprovalVote"]] = relationship(order_by="ApprovalVote.at_ms")


class ApprovalVote(Base):
    """One operator wants it; the primary key is why nobody counts twice."""

    __tablename__ = "approval_votes"

    approval_id: Mapped[int] = mapped_column(
        ForeignKey("approvals.id"), primary_key=True
    )
    operator: Mapped[str] = mapped_column(String(512), primary_key=True)
    at_ms: Mapped[int] = mapped_column(BigInteger)


class AuditEventId(Base):
    """What a reporter called a record: reported again, it is the record it was."""

    __tablename__ = "audit_event_ids"

    actor: Mapped[str] = mapped_column(String(512), primary_key=True)
    event_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    index: Mapped[int] = mapped_column(BigInteger, ForeignKey("audit_leaves.index"))


class AuditLeaf(Base):
    """One record of the log, stored as it was hashed. Append-only by trigger."""

    __tablename__ = "audit_leaves"
    __table_args__ = (
        CheckConstraint('"index" >= 0', name="index_not_negative"),
        _bytes_long("leaf_hash", 32),
        # Read in the log's order, a page at a time, without sorting what is left.
        Index("ix_audit_leaves_kind_index", "kind", "index"),
    )

    index: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False
    )
    body: Mapped[bytes] = mapped_column(LargeBinary)
    leaf_hash: Mapped[bytes] = mapped_column(LargeBinary)
    # Copies of what the body says, to search by.
    kind: Mapped[str] = mapped_column(String(64))
    time_ms: Mapped[int] = mapped_column(BigInteger)


class AuditLeafParty(Base):
    """Who may read a record: the parties it names. An index, not evidence."""

    __tablename__ = "audit_leaf_parties"
    __table_args__ = (
        Index("ix_audit_leaf_parties_spiffe_id_index", "spiffe_id", "index"),
    )

    index: Mapped[int] = mapped_column(
        BigInteger,
        ForeignKey("audit_leaves.index"),
        primary_key=True,
        autoincrement=False,
    )
    spiffe_id: Mapped[str] = mapped_column(String(512), primary_key=True)


class AuditRequestId(Base):
    """Which records tell of a request. An index, not evidence."""

    __tablename__ = "audit_request_ids"
    # One tree in the file rather than two, for every answer writes here.
    __table_args__ = ({"sqlite_with_rowid": False},)

    request_id: Mapped[str] = mapped_column(String(512), primary_key=True)
    index: Mapped[int] = mapped_column(
        BigInteger,
        ForeignKey("audit_leaves.index"),
        primary_key=True,
        autoincrement=False,
    )


class AuditNode(Base):
    """The hash over 2**level leaves from position * 2**level on; level is 1 or more."""

    __tablename__ = "audit_nodes"
    __table_args__ = (
        CheckConstraint("level >= 1", name="level_positive"),
        CheckConstraint("position >= 0", name="position_not_negative"),
        _bytes_long("hash", 32),
    )

    level: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False
    )
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class AuditNote(Base):
    """What was typed with a record, kept beside it so that it can be erased."""

    __tablename__ = "audit_notes"
    __table_args__ = (_bytes_long("salt", 32),)

    index: Mapped[int] = mapped_column(
        BigInteger,
        ForeignKey("audit_leaves.index"),
        primary_key=True,
        autoincrement=False,
    )
    # Of the text's digest in the record.
    salt: Mapped[bytes] = mapped_column(LargeBinary)
    text: Mapped[str] = mapped_column(Text)


class Checkpoint(Base):
    """A signed root, kept before anyone was shown it; see `core.checkpoint`."""

    __tablename__ = "checkpoints"
    __table_args__ = (CheckConstraint("size >= 0", name="size_not_negative"),)

    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    note: Mapped[bytes] = mapped_column(LargeBinary)


class Cosignature(Base):
    """The newest checkpoint that a data owner has witnessed; see `core.cosignature`."""

    __tablename__ = "cosignatures"
    __table_args__ = (
        CheckConstraint("size >= 0", name="size_not_negative"),
        _bytes_at_most("note", LONGEST_COSIGNED),
    )

    party_id: Mapped[int] = mapped_column(ForeignKey("parties.id"), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    # By the witness's clock.
    at_s: Mapped[int] = mapped_column(BigInteger)
    note: Mapped[bytes] = mapped_column(LargeBinary)

    party: Mapped[Party] = relationship()


class Pulse(Base):
    """One row, overwritten to find out whether anything can be written at all."""

    __tablename__ = "pulse"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at_ms: Mapped[int] = mapped_column(BigInteger)
    filling: Mapped[bytes] = mapped_column(LargeBinary)
