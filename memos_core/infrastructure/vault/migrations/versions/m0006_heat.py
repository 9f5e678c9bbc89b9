"""How much a memory is used lately."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("usage", sa.Column("heat", sa.Float(), nullable=False, server_default="0"))
    op.create_index("usage_by_heat", "usage", ["heat"], unique=False)
