"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    make_namespaces()
    make_cubes()
    make_versions()
    make_search()
    make_vectors()
    make_relations()
    make_usage()
    make_records()


def make_namespaces() -> None:
    op.create_table(
        "namespaces",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("removals", sa.BigInteger(), nullable=False),
        sa.Column("bytes_used", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "collections",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("embedder", sa.String(), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sqlite_autoincrement=True,
    )


def make_cubes() -> None:
    op.create_table(
        "cubes",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("agent", sa.String(), nullable=True),
        sa.Column("session", sa.String(), nullable=True),
        sa.Column("speaker", sa.String(), nullable=True),
        sa.Column("role", sa.String(), nullable=True),
        sa.Column("ref", sa.String(), nullable=True),
        sa.Column("uri", sa.String(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("language", sa.String(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=True),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("valid_from", sa.BigInteger(), nullable=True),
        sa.Column("valid_until", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("fingerprint", sa.String(), nullable=True),
        sa.Column("dedup_key", sa.String(), nullable=True),
        sa.Column("header", sa.Text(), nullable=False),
        sa.Column("header_digest", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("cubes_by_fingerprint", "cubes", ["namespace_id", "fingerprint"], unique=False)
    op.create_index("cubes_by_session", "cubes", ["namespace_id", "session", "id"], unique=False)
    op.create_index("cubes_by_namespace", "cubes", ["namespace_id", "id"], unique=False)
    op.create_index(
        "cubes_without_duplicates",
        "cubes",
        ["namespace_id", "dedup_key"],
        unique=True,
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    )


def make_versions() -> None:
    op.create_table(
        "versions",
        sa.Column("cube_id", sa.String(length=26), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("header", sa.Text(), nullable=False),
        sa.Column("header_digest", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("blob_address", sa.String(length=64), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("committed", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["cube_id"],
            ["cubes.id"],
        ),
        sa.PrimaryKeyConstraint("cube_id", "version"),
    )
    op.create_index("versions_by_blob", "versions", ["blob_address"], unique=False)
    op.create_table(
        "tags",
        sa.Column("cube_id", sa.String(length=26), nullable=False),
        sa.Column("tag", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["cube_id"],
            ["cubes.id"],
        ),
        sa.PrimaryKeyConstraint("cube_id", "tag"),
        sqlite_with_rowid=False,
    )


def make_search() -> None:
    op.create_table(
        "passages",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("cube_id", sa.String(length=26), nullable=False),
        sa.Column("collection", sa.String(), nullable=False),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("end", sa.Integer(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("terms_crc", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["cube_id"],
            ["cubes.id"],
        ),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("passages_by_cube", "passages", ["cube_id"], unique=False)
    op.create_index("passages_by_namespace", "passages", ["namespace_id", "cube_id", "length"], unique=False)
    op.create_table(
        "postings",
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("term", sa.String(), nullable=False),
        sa.Column("passage_id", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
        ),
        sa.ForeignKeyConstraint(
            ["passage_id"],
            ["passages.id"],
        ),
        sa.PrimaryKeyConstraint("namespace_id", "term", "passage_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("postings_by_passage", "postings", ["passage_id"], unique=False)


def make_vectors() -> None:
    op.create_table(
        "vectors",
        sa.Column("passage_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("crc", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
        ),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
        ),
        sa.ForeignKeyConstraint(
            ["passage_id"],
            ["passages.id"],
        ),
        sa.PrimaryKeyConstraint("passage_id"),
    )
    op.create_index("vectors_by_namespace", "vectors", ["collection_id", "namespace_id", "passage_id"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("operation", sa.String(), nullable=False),
        sa.Column("passage_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
        ),
        sa.PrimaryKeyConstraint("seq"),
        sqlite_autoincrement=True,
    )
    op.create_index("outbox_by_passage", "outbox", ["passage_id"], unique=False)
    op.create_table(
        "index_state",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("generation", sa.String(), nullable=False),
        sa.Column("applied_seq", sa.BigInteger(), nullable=False),
        sa.Column("applied_passage", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def make_relations() -> None:
    op.create_table(
        "lineage",
        sa.Column("cube_id", sa.String(length=26), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("source_id", sa.String(length=26), nullable=False),
        sa.Column("source_version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["cube_id"],
            ["cubes.id"],
        ),
        sa.PrimaryKeyConstraint("cube_id", "position"),
    )
    op.create_index("lineage_by_source", "lineage", ["source_id"], unique=False)
    op.create_table(
        "links",
        sa.Column("cube_id", sa.String(length=26), nullable=False),
        sa.Column("target", sa.String(length=26), nullable=False),
        sa.Column("relation", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["cube_id"],
            ["cubes.id"],
        ),
        sa.PrimaryKeyConstraint("cube_id", "target", "relation"),
        sqlite_with_rowid=False,
    )
    op.create_index("links_by_target", "links", ["target"], unique=False)
    op.create_table(
        "grants",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("cube_id", sa.String(length=26), nullable=False),
        sa.Column("grantee", sa.String(), nullable=False),
        sa.Column("right", sa.String(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["cube_id"],
            ["cubes.id"],
        ),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("grants_by_cube", "grants", ["cube_id"], unique=False)
    op.create_index("grants_by_grantee", "grants", ["grantee"], unique=False)


def make_usage() -> None:
    op.create_table(
        "usage",
        sa.Column("cube_id", sa.String(length=26), nullable=False),
        sa.Column("reads", sa.BigInteger(), nullable=False),
        sa.Column("injected_text", sa.BigInteger(), nullable=False),
        sa.Column("injected_kv", sa.BigInteger(), nullable=False),
        sa.Column("injected_lora", sa.BigInteger(), nullable=False),
        sa.Column("tokens_saved", sa.BigInteger(), nullable=False),
        sa.Column("feedback", sa.Float(), nullable=False),
        sa.Column("contribution", sa.Float(), nullable=True),
        sa.Column("last_used", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["cube_id"],
            ["cubes.id"],
        ),
        sa.PrimaryKeyConstraint("cube_id"),
    )


def make_records() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("principal", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace_id"],
            ["namespaces.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_by_namespace", "audit", ["namespace_id", "id"], unique=False)
    op.create_table(
        "audit_cubes",
        sa.Column("audit_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("cube_id", sa.String(length=26), nullable=False),
        sa.ForeignKeyConstraint(
            ["audit_id"],
            ["audit.id"],
        ),
        sa.PrimaryKeyConstraint("audit_id", "position"),
    )
    op.create_index("audit_cubes_by_cube", "audit_cubes", ["cube_id"], unique=False)
    op.create_table(
        "pending_erasure",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
