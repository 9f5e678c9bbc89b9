"""The tables of the ledger.

Times are whole microseconds since 1970 in UTC, JSON is canonical text, vectors are little-endian float32. The
searchable fields of a header stand in columns of their own beside the header itself; ``verify`` compares the two.
Changing anything here takes a new migration; a test compares the tables that the migrations make with these.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

__all__ = [
    "audit",
    "audit_cubes",
    "collections",
    "cubes",
    "document_fields",
    "grants",
    "index_state",
    "job_cubes",
    "jobs",
    "learned_weights",
    "lineage",
    "links",
    "metadata",
    "namespaces",
    "outbox",
    "passages",
    "pending_erasure",
    "postings",
    "recall_cubes",
    "recalls",
    "snapshot_cubes",
    "snapshots",
    "tags",
    "usage",
    "vectors",
    "versions",
]

metadata = MetaData()

namespaces = Table(
    "namespaces",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("salt", LargeBinary, nullable=False),
    Column("revision", BigInteger, nullable=False),  # grows with every change
    Column("removals", BigInteger, nullable=False),  # grows with every change that takes vectors away
    Column("bytes_used", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

collections = Table(
    "collections",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("embedder", String, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("metric", String, nullable=False),
    sqlite_autoincrement=True,
)

cubes = Table(
    "cubes",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("namespace_id", ForeignKey("namespaces.id"), nullable=False),
    Column("type", String, nullable=False),
    Column("state", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("agent", String),
    Column("session", String),
    Column("speaker", String),
    Column("role", String),
    Column("ref", String),
    Column("uri", String),
    Column("kind", String, nullable=False),
    Column("language", String),
    Column("collection", String),  # that it is a document of; NULL: a memory, found by every search
    Column("at", BigInteger),
    Column("created", BigInteger, nullable=False),
    Column("valid_from", BigInteger),
    Column("valid_until", BigInteger),
    Column("expires_at", BigInteger),
    Column("fingerprint", String),  # of the model that an activation or adapter fits
    Column("dedup_key", String),
    Column("item_path", String),  # of an item; NULL for every other memory
    Column("item_key", String),
    Column("header", Text, nullable=False),
    Column("header_digest", String(64), nullable=False),
    Index("cubes_by_namespace", "namespace_id", "id"),
    Index("cubes_by_session", "namespace_id", "session", "id"),
    Index("cubes_by_place", "namespace_id", "collection", "item_path", "id"),
    Index(
        "cubes_by_agent",
        "namespace_id",
        "agent",
        "id",
        sqlite_where=text("agent IS NOT NULL"),
        postgresql_where=text("agent IS NOT NULL"),
    ),
    Index(
        "cubes_of_tensors",
        "id",
        sqlite_where=text("type <> 'plaintext'"),
        postgresql_where=text("type <> 'plaintext'"),
    ),
    Index(
        "cubes_by_fingerprint",
        "namespace_id",
        "fingerprint",
        sqlite_where=text("fingerprint IS NOT NULL"),
        postgresql_where=text("fingerprint IS NOT NULL"),
    ),
    Index(
        "cubes_without_duplicates",
        "namespace_id",
        "dedup_key",
        unique=True,
        sqlite_where=text("state = 'active'"),
        postgresql_where=text("state = 'active'"),
    ),
)

versions = Table(
    "versions",
    metadata,
    Column("cube_id", ForeignKey("cubes.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("payload", Text, nullable=False),
    Column("header", Text, nullable=False),
    Column("header_digest", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("blob_address", String(64)),
    Column("size_bytes", BigInteger, nullable=False),
    Column("author", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("committed", BigInteger, nullable=False),
    Index(
        "versions_by_blob",
        "blob_address",
        sqlite_where=text("blob_address IS NOT NULL"),
        postgresql_where=text("blob_address IS NOT NULL"),
    ),
)

tags = Table(
    "tags",
    metadata,
    Column("cube_id", ForeignKey("cubes.id"), primary_key=True),
    Column("tag", String, primary_key=True),
    sqlite_with_rowid=False,
)

document_fields = Table(
    "document_fields",
    metadata,
    Column("cube_id", ForeignKey("cubes.id"), primary_key=True),
    Column("field", String, primary_key=True),
    Column("value", String, primary_key=True),  # as ``selecting.encoded`` keeps it
    Column("collection", String, nullable=False),
    Index("document_fields_by_value", "collection", "field", "value"),
    sqlite_with_rowid=False,
)

passages = Table(
    "passages",
    metadata,
    Column("id", Integer, primary_key=True),  # never used twice, and in the order of commits
    Column("namespace_id", ForeignKey("namespaces.id"), nullable=False),
    Column("cube_id", ForeignKey("cubes.id"), nullable=False),
    Column("collection", String, nullable=False),
    Column("start", Integer, nullable=False),
    Column("end", Integer, nullable=False),
    Column("length", Integer, nullable=False),
    Column("terms_crc", BigInteger, nullable=False),
    Index("passages_by_cube", "cube_id"),
    Index("passages_by_namespace", "namespace_id", "id"),
    sqlite_autoincrement=True,
)

postings = Table(
    "postings",
    metadata,
    Column("namespace_id", ForeignKey("namespaces.id"), primary_key=True),
    Column("term", String, primary_key=True),
    Column("passage_id", ForeignKey("passages.id"), primary_key=True),
    Column("count", Integer, nullable=False),
    Index("postings_by_passage", "passage_id"),
    sqlite_with_rowid=False,
)

vectors = Table(
    "vectors",
    metadata,
    Column("passage_id", ForeignKey("passages.id"), primary_key=True, autoincrement=False),
    Column("collection_id", ForeignKey("collections.id"), nullable=False),
    Column("namespace_id", ForeignKey("namespaces.id"), nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("crc", BigInteger, nullable=False),
    Index("vectors_by_namespace", "collection_id", "namespace_id", "passage_id"),
)

lineage = Table(
    "lineage",
    metadata,
    Column("cube_id", ForeignKey("cubes.id"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("source_id", String(26), nullable=False),
    Column("source_version", Integer, nullable=False),
    Index("lineage_by_source", "source_id"),
)

links = Table(
    "links",
    metadata,
    Column("cube_id", ForeignKey("cubes.id"), primary_key=True),
    Column("target", String(26), primary_key=True),
    Column("relation", String, primary_key=True),
    Index("links_by_target", "target"),
    sqlite_with_rowid=False,
)

grants = Table(
    "grants",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("namespace_id", ForeignKey("namespaces.id"), nullable=False),
    Column("cube_id", ForeignKey("cubes.id")),  # NULL: all that the namespace, the agent or the session holds
    Column("agent", String),
    Column("session", String),
    Column("grantee", String, nullable=False),  # a user, who need not be known yet
    Column("right", String, nullable=False),
    Column("until", BigInteger),
    Column("author", String, nullable=False),
    Column("created", BigInteger, nullable=False),
    Index("grants_by_cube", "cube_id"),
    Index("grants_by_namespace", "namespace_id", "id"),
    Index("grants_by_grantee", "grantee", "cube_id", "namespace_id"),
    sqlite_autoincrement=True,
)

usage = Table(
    "usage",
    metadata,
    Column("cube_id", ForeignKey("cubes.id"), primary_key=True),
    Column("reads", BigInteger, nullable=False),
    Column("injected_text", BigInteger, nullable=False),
    Column("injected_kv", BigInteger, nullable=False),
    Column("injected_lora", BigInteger, nullable=False),
    Column("tokens_saved", BigInteger, nullable=False),
    Column("feedback", Float, nullable=False),
    Column("contribution", Float),
    Column("last_used", BigInteger),
    Column("heat", Float, nullable=False, server_default="0"),  # as of last_used
    sqlite_with_rowid=False,
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("namespace_id", ForeignKey("namespaces.id"), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("principal", String, nullable=False),
    Column("action", String, nullable=False),
    Column("detail", Text, nullable=False),
    Index("audit_by_namespace", "namespace_id", "id"),
    sqlite_autoincrement=True,
)

audit_cubes = Table(
    "audit_cubes",
    metadata,
    Column("audit_id", ForeignKey("audit.id"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("cube_id", String(26), nullable=False),  # outlives the cube
    Index("audit_cubes_by_cube", "cube_id"),
    sqlite_with_rowid=False,
)

outbox = Table(
    "outbox",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("collection_id", ForeignKey("collections.id"), nullable=False),
    Column("operation", String, nullable=False),  # 'add' or 'remove'
    Column("passage_id", Integer, nullable=False),
    Index("outbox_by_passage", "passage_id"),
    sqlite_autoincrement=True,
)

index_state = Table(
    "index_state",
    metadata,
    Column("name", String, primary_key=True),  # 'chroma'
    Column("generation", String, nullable=False),
    Column("applied_seq", BigInteger, nullable=False),  # of the outbox
    Column("applied_passage", BigInteger, nullable=False),  # newest passage that the index holds
)

pending_erasure = Table(
    "pending_erasure",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False),  # 'wal', 'index', 'folder' or 'blob'
    Column("subject", String, nullable=False),
    sqlite_autoincrement=True,
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("namespace_id", ForeignKey("namespaces.id"), nullable=False),
    Column("agent", String),
    Column("session", String),
    Column("kind", String, nullable=False),
    Column("parameters", Text, nullable=False),  # settings; never the text of a memory
    Column("work_key", String(64), nullable=False),  # equal work, equal key
    Column("state", String, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("due", BigInteger, nullable=False),
    Column("lease", String(32)),  # changes hands with the job
    Column("leased_until", BigInteger),
    Column("done", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("reason", String),
    Column("result", Text),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Index("jobs_by_state", "state", "priority", "due"),
    Index("jobs_by_namespace", "namespace_id", "id"),
    Index(
        "jobs_without_duplicates",
        "namespace_id",
        "work_key",
        unique=True,
        sqlite_where=text("state IN ('waiting', 'running')"),
        postgresql_where=text("state IN ('waiting', 'running')"),
    ),
)

job_cubes = Table(
    "job_cubes",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("cube_id", String(26), nullable=False),
    Index("job_cubes_by_cube", "cube_id"),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("namespace_id", ForeignKey("namespaces.id"), nullable=False),
    Column("agent", String),
    Column("session", String),
    Column("name", String, nullable=False),
    Column("author", String, nullable=False),
    Column("created", BigInteger, nullable=False),
    Index("snapshots_by_namespace", "namespace_id", "name"),
)

snapshot_cubes = Table(
    "snapshot_cubes",
    metadata,
    Column("snapshot_id", ForeignKey("snapshots.id"), primary_key=True),
    Column("cube_id", ForeignKey("cubes.id"), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("state", String, nullable=False),
    Index("snapshot_cubes_by_cube", "cube_id"),
    sqlite_with_rowid=False,
)

recalls = Table(
    "recalls",
    metadata,
    Column("id", String(26), primary_key=True),  # in the order in which memory was given to a model
    Column("namespace_id", ForeignKey("namespaces.id"), nullable=False),
    Column("agent", String),
    Column("session", String),
    Column("at", BigInteger, nullable=False),
    Column("question", String(64)),  # keyed digest; equal questions of one namespace, equal digests
    Column("features", String(16), nullable=False),  # which signals, situation and embedder the numbers are of
    Column("situation", Text, nullable=False),
    Column("vector", LargeBinary),  # of the question, float16, little-endian
    Column("intent", String, nullable=False),  # what the prompt wanted of memory
    Column("learned", Integer),  # version of the weights that was the first to learn from it
    Index("recalls_by_namespace", "namespace_id", "id"),
    sqlite_with_rowid=False,
)

recall_cubes = Table(
    "recall_cubes",
    metadata,
    Column("recall_id", ForeignKey("recalls.id"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("cube_id", String(26), nullable=False),
    Column("signals", Text, nullable=False),
    Column("share", Float),  # of what the answer took from memory; NULL: not known
    Column("verdict", Float),  # the caller's, between -1 and 1; NULL: none was given
    Column("span_start", Integer),  # the characters of a long memory that the answer used; NULL: not known
    Column("span_end", Integer),
    Index("recall_cubes_by_cube", "cube_id"),
    sqlite_with_rowid=False,
)

learned_weights = Table(
    "learned_weights",
    metadata,
    Column("namespace_id", ForeignKey("namespaces.id"), primary_key=True, autoincrement=False),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("parent", Integer, nullable=False),  # the version that this one went on from; 0: what ships
    Column("at", BigInteger, nullable=False),
    Column("author", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("before", Text, nullable=False),  # what is added to the shipped weight of each signal
    Column("after", Text, nullable=False),
    Column("recalls", Integer, nullable=False),  # that it was learned from
    sqlite_with_rowid=False,
)
