"""Grants of whole scopes, with their author and time. No release has written any before."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


OF_AGENTS = sa.text("agent IS NOT NULL")


def upgrade() -> None:
    op.create_index(
        "cubes_by_agent",
        "cubes",
        ["namespace_id", "agent", "id"],
        unique=False,
        sqlite_where=OF_AGENTS,
        postgresql_where=OF_AGENTS,
    )
    op.drop_table("grants")
    op.create_table(
        "grants",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("namespace_id", sa.Integer(), nullable=False),
        sa.Column("cube_id", sa.String(length=26), nullable=True),
        sa.Column("agent", sa.String(), nullable=True),
        sa.Column("session", sa.String(), nullable=True),
        sa.Column("grantee", sa.String(), nullable=False),
        sa.Column("right", sa.String(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["cube_id"], ["cubes.id"]),
        sa.ForeignKeyConstraint(["namespace_id"], ["namespaces.id"]),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("grants_by_cube", "grants", ["cube_id"], unique=False)
    op.create_index("grants_by_namespace", "grants", ["namespace_id", "id"], unique=False)
    op.create_index("grants_by_grantee", "grants", ["grantee", "cube_id", "namespace_id"], unique=False)
