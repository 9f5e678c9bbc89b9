"""Snapshots of scopes."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "snapshots",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("agent", sa.String(), nullable=True),
        sa.Column("session", sa.String(), nullable=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["namespace_id"], ["namespaces.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("snapshots_by_namespace", "snapshots", ["namespace_id", "name"], unique=False)
    op.create_table(
        "snapshot_cubes",
        sa.Column("snapshot_id", sa.String(length=26), nullable=False),
        sa.Column("cube_id", sa.String(length=26), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["cube_id"], ["cubes.id"]),
        sa.ForeignKeyConstraint(["snapshot_id"], ["snapshots.id"]),
        sa.PrimaryKeyConstraint("snapshot_id", "cube_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("snapshot_cubes_by_cube", "snapshot_cubes", ["cube_id"], unique=False)
