"""The tables, valid on SQLite and PostgreSQL. Their meaning and the arrows between states: docs/architecture.md.

Times are seconds since 1970 UTC (`*_at`): deadlines are kept here and not in timers, so that a restart forgets nothing.
No column holds a patient's name or ID; `identity` and `patient` are digests that tell whether two instances name the
same patient and study. File names are our own, relative to the spool.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)


class SeriesState(StrEnum):
    RECEIVING = "receiving"
    COMPLETE = "complete"  # its newest job says how far it has got
    REFUSED = "refused"  # not an eligible head CT
    NOT_CHOSEN = "not chosen"  # eligible, but another series of the study gives the result
    FAILED = "failed"  # contradicts itself; a person decides


class CompletionRule(StrEnum):
    """Why a series counts as complete; what each asks for: `receiving.completion`."""

    COUNT = "count"
    COVERED = "covered"
    SILENCE = "silence"


class JobState(StrEnum):
    READY = "ready"
    RUNNING = "running"
    REPORTED = "reported"  # the report is in the outbox
    DELIVERED = "delivered"  # and every object owed is stored at its destination
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WITHDRAWN = "withdrawn"  # a person took the result back


class CommitmentState(StrEnum):
    OWED = "owed"  # delivered, and the destination is still to be asked
    ASKED = "asked"
    COMMITTED = "committed"


class DeliveryState(StrEnum):
    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"  # permanently refused; `dicom-node retry` tries again
    CANCELLED = "cancelled"


class ObjectKind(StrEnum):
    """What the node makes of a series."""

    REPORT = "report"
    PICTURE = "picture"
    DOCUMENT = "document"
    KEY_OBJECTS = "key_objects"
    WITHDRAWAL = "withdrawal"


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# People and logs use these numbers, and what is sent, asked or answered is found by them when that is done: SQLite must
# not give the number of a row that was deleted to another patient's. Elsewhere none outlives its transaction.
_NUMBERED: dict[str, Any] = {"sqlite_autoincrement": True}

node = Table(
    "node",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("device_uid", String(64), nullable=False),
    Column("spool_uid", String(64)),  # of the one spool that holds the files; Spool.uid
    Column("created_at", Float, nullable=False),
)

series = Table(
    "series",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("series_uid", String(64), nullable=False, unique=True),
    Column("study_uid", String(64), nullable=False, index=True),
    Column("calling_aet", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text),  # why it was refused or failed
    Column("run", Integer, nullable=False),  # number of the newest run, 0 before the first
    Column("rule", String(32)),  # CompletionRule, the one that fired last
    Column("whole", Boolean),  # and whether it could vouch for the series
    Column("expected", Integer),  # Number of Series Related Instances, if a PACS said it
    Column("first_at", Float, nullable=False),
    Column("last_at", Float, nullable=False, index=True),
    Column("not_before", Float),  # a reopened series is not completed again before this
    Column("forced", Boolean, nullable=False),  # until a run ends, or none begins: a person wants it reported
    Column("passed_over_for", Integer),  # job in whose favour it was not chosen, or its own: store.choices
    Column("priority", Integer, nullable=False, default=0),  # live or backlog, lower first: store.jobs
    Index(None, "state", "run"),
    **_NUMBERED,
)

instances = Table(
    "instances",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("series_id", ForeignKey("series.id"), nullable=False, index=True),
    Column("sop_class_uid", String(64), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("file", String(128), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", String(64), nullable=False),  # digests.of the encoded data set, without File Meta Information
    Column("pixel_sha256", String(64)),  # once compared with another of its UID; header.pixel_digest
    Column("identity", String(64), nullable=False),  # identity.identity_digest
    Column("patient", String(64), nullable=False),  # identity.patient_of
    Column("facts", JSON, nullable=False),  # facts.Facts
    Column("ruled_out", Text),  # why, by its header, it is not a slice to classify
    Column("calling_aet", String(16), nullable=False),
    Column("received_at", Float, nullable=False),  # the last time, if again while its series was being received
    Column("current", Boolean, nullable=False),  # False once a corrected header replaced it
    Column("tries", Integer, nullable=False),  # how often a worker began to read it without finishing
    Column("committed_at", Float),  # when we committed to keeping it (storage commitment); from then on it stays
    # Its name is from when the digest was SHA-256; SQLite would have to copy the table to give it another.
    UniqueConstraint("sop_instance_uid", "digest", name="uq_instances_sop_instance_uid_sha256"),
    **_NUMBERED,
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("series_id", ForeignKey("series.id"), nullable=False),
    Column("run", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("priority", Integer, nullable=False),  # lower first
    Column("not_before", Float, nullable=False),
    Column("lease_owner", String(64)),
    Column("lease_until", Float),
    Column("tries", Integer, nullable=False),
    Column("reason", Text),
    Column("outcome", String(16)),
    Column("findings", JSON),
    Column("model_digest", String(64)),
    Column("preprocessing", String(64)),
    Column("extras_due", Boolean, nullable=False, default=False),  # picture or key objects are still to be made
    Column("extras_tries", Integer, nullable=False, default=0),  # how often a worker began to make them
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    UniqueConstraint("series_id", "run"),
    Index(None, "state", "priority", "not_before"),
    Index(None, "extras_due", "priority"),
    **_NUMBERED,
)

slice_results = Table(
    "slice_results",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("instance_id", ForeignKey("instances.id"), nullable=False),
    Column("frame", Integer, nullable=False),  # 0 for a single-frame image
    Column("model_digest", String(64), nullable=False),
    Column("preprocessing", String(64), nullable=False),
    Column("left_out", Text),  # why it was not given to the model
    Column("content", JSON, nullable=False),  # geometry and what the slice shows: results.SliceResult
    Column("presence", Float),
    Column("deep", Float),
    Column("lobar", Float),
    Column("subtentorial", Float),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("instance_id", "frame", "model_digest", "preprocessing"),
)

objects = Table(
    "objects",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey("jobs.id"), nullable=False, index=True),
    Column("kind", String(16), nullable=False),  # ObjectKind
    Column("sop_class_uid", String(64), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False, unique=True),
    Column("series_uid", String(64), nullable=False),
    Column("file", String(128), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
    **_NUMBERED,
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("object_id", ForeignKey("objects.id"), nullable=False),
    Column("destination", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_at", Float, nullable=False),
    Column("last_status", Integer),
    Column("last_error", Text),
    Column("begun_at", Float),  # when it went out without an answer: the destination may have it
    Column("delivered_at", Float),
    Column("commitment", String(16)),  # for delivered objects, if the destination is asked: CommitmentState
    Column("commitment_at", Float),  # when to ask for it (again); once committed, when that was said
    Column("commitment_tries", Integer, nullable=False, default=0),
    Column("transaction_uid", String(64), index=True),  # of the last request to the destination
    UniqueConstraint("object_id", "destination"),
    Index(None, "state", "destination", "next_at"),
    Index(None, "commitment", "destination", "commitment_at"),
    **_NUMBERED,
)

OPEN = deliveries.c.state.in_((DeliveryState.WAITING, DeliveryState.FAILED))
"""Whether it is owed: also what was refused, as `dicom-node retry` tries it again."""
UNCONFIRMED = deliveries.c.commitment.in_((CommitmentState.OWED, CommitmentState.ASKED))
"""Whether it is delivered, and its destination is asked to commit to keeping it and has not."""

commitments = Table(
    "commitments",  # what others asked us to commit to; answered on an association of our own
    metadata,
    Column("id", Integer, primary_key=True),
    Column("transaction_uid", String(64), nullable=False),
    Column("calling_aet", String(16), nullable=False),
    Column("asked", JSON, nullable=False),  # pairs of SOP Class and SOP Instance UID
    Column("state", String(16), nullable=False),  # DeliveryState of the answer
    Column("tries", Integer, nullable=False),
    Column("next_at", Float, nullable=False),
    Column("last_error", Text),
    Column("received_at", Float, nullable=False),
    Column("answered_at", Float),
    UniqueConstraint("calling_aet", "transaction_uid"),
    Index(None, "state", "next_at"),
    **_NUMBERED,
)

heartbeats = Table(
    "heartbeats",  # one row per living `serve`; `dicom-node status` relies on it
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("started_at", Float, nullable=False),
    Column("at", Float, nullable=False),
)

destinations = Table(
    "destinations",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("sr_class_uid", String(64), nullable=False),  # the SR class that this destination has taken
    Column("noted_at", Float, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("series_id", ForeignKey("series.id"), index=True),
    Column("job_id", ForeignKey("jobs.id"), index=True),
    Column("kind", String(32), nullable=False),
    Column("detail", Text),
)
