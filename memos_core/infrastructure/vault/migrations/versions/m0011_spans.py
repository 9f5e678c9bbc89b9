"""Which part of a long memory an answer used."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("recall_cubes", sa.Column("span_start", sa.Integer(), nullable=True))
    op.add_column("recall_cubes", sa.Column("span_end", sa.Integer(), nullable=True))
