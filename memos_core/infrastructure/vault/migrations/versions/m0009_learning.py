"""What was recalled for which question, and what was learned from it."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "recalls",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("agent", sa.String(), nullable=True),
        sa.Column("session", sa.String(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("question", sa.String(length=64), nullable=True),
        sa.Column("features", sa.String(length=16), nullable=False),
        sa.Column("situation", sa.Text(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=True),
        sa.Column("intent", sa.String(), nullable=False),
        sa.Column("learned", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["namespace_id"], ["namespaces.id"]),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    op.create_index("recalls_by_namespace", "recalls", ["namespace_id", "id"], unique=False)
    op.create_table(
        "recall_cubes",
        sa.Column("recall_id", sa.String(length=26), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("cube_id", sa.String(length=26), nullable=False),
        sa.Column("signals", sa.Text(), nullable=False),
        sa.Column("share", sa.Float(), nullable=True),
        sa.Column("verdict", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["recall_id"], ["recalls.id"]),
        sa.PrimaryKeyConstraint("recall_id", "position"),
        sqlite_with_rowid=False,
    )
    op.create_index("recall_cubes_by_cube", "recall_cubes", ["cube_id"], unique=False)
    op.create_table(
        "learned_weights",
        sa.Column("namespace_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("parent", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.Column("recalls", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["namespace_id"], ["namespaces.id"]),
        sa.PrimaryKeyConstraint("namespace_id", "version"),
        sqlite_with_rowid=False,
    )
