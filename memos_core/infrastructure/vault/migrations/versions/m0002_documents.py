"""Documents of collections, beside memories."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("cubes", sa.Column("collection", sa.String(), nullable=True))
    op.create_index("cubes_by_collection", "cubes", ["namespace_id", "collection", "id"], unique=False)
