"""Cubes that hold tensors are found without looking at every text."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

TENSORS = sa.text("type <> 'plaintext'")


def upgrade() -> None:
    op.create_index("cubes_of_tensors", "cubes", ["id"], unique=False, sqlite_where=TENSORS, postgresql_where=TENSORS)
