"""Items: where a cube lies that is kept under a key."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("cubes", sa.Column("item_path", sa.String(), nullable=True))
    op.add_column("cubes", sa.Column("item_key", sa.String(), nullable=True))
    op.create_index("cubes_by_item", "cubes", ["namespace_id", "item_path", "id"], unique=False)
