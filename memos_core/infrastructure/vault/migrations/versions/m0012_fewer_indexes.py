"""Fewer pages for a memory that is added: what no query needs goes, and what few memories have is indexed for those."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

MADE = sa.text("fingerprint IS NOT NULL")
WITH_BLOB = sa.text("blob_address IS NOT NULL")


def upgrade() -> None:
    for name, table in (
        ("cubes_by_collection", "cubes"),
        ("cubes_by_item", "cubes"),
        ("cubes_by_fingerprint", "cubes"),
        ("versions_by_blob", "versions"),
        ("passages_by_namespace", "passages"),
        ("usage_by_heat", "usage"),
        ("audit_cubes_by_cube", "audit_cubes"),
    ):
        op.drop_index(name, table, if_exists=True)
    op.create_index("cubes_by_place", "cubes", ["namespace_id", "collection", "item_path", "id"], if_not_exists=True)
    create_for_some("cubes_by_fingerprint", "cubes", ["namespace_id", "fingerprint"], MADE)
    create_for_some("versions_by_blob", "versions", ["blob_address"], WITH_BLOB)
    op.create_index("passages_by_namespace", "passages", ["namespace_id", "id"], unique=False)
    remake_usage()
    remake_audit_cubes()
    op.create_index("audit_cubes_by_cube", "audit_cubes", ["cube_id"], unique=False)


def create_for_some(name: str, table: str, columns: list[str], which: sa.TextClause) -> None:
    op.create_index(name, table, columns, unique=False, sqlite_where=which, postgresql_where=which)


def remake_usage() -> None:
    remake(
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
        sa.Column("heat", sa.Float(), nullable=False, server_default="0"),
        sa.ForeignKeyConstraint(["cube_id"], ["cubes.id"]),
        sa.PrimaryKeyConstraint("cube_id"),
    )


def remake_audit_cubes() -> None:
    remake(
        "audit_cubes",
        sa.Column("audit_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("cube_id", sa.String(length=26), nullable=False),
        sa.ForeignKeyConstraint(["audit_id"], ["audit.id"]),
        sa.PrimaryKeyConstraint("audit_id", "position"),
    )


def remake(name: str, *parts: sa.schema.SchemaItem) -> None:
    """Make a table anew whose rows lie in its key, so that it needs no index beside it."""
    op.create_table(f"new_{name}", *parts, sqlite_with_rowid=False)
    columns = ", ".join(part.name for part in parts if isinstance(part, sa.Column))
    op.execute(f"INSERT INTO new_{name} ({columns}) SELECT {columns} FROM {name}")
    op.drop_table(name)
    op.rename_table(f"new_{name}", name)
