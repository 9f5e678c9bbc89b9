"""What the metadata of documents holds, beside their headers, so that a rare filter does not read them all."""

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

from memos_core.infrastructure.vault.selecting import field_values

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    fields = op.create_table(
        "document_fields",
        sa.Column("cube_id", sa.String(length=26), nullable=False),
        sa.Column("field", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("collection", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["cube_id"], ["cubes.id"]),
        sa.PrimaryKeyConstraint("cube_id", "field", "value"),
        sqlite_with_rowid=False,
    )
    op.create_index("document_fields_by_value", "document_fields", ["collection", "field", "value"], unique=False)
    documents = op.get_bind().execute(sa.text("SELECT id, collection, header FROM cubes WHERE collection IS NOT NULL"))
    for part in documents.partitions(500):
        op.bulk_insert(fields, list(rows_of(part)))


def rows_of(documents: Any) -> Iterator[dict[str, str]]:
    for cube_id, collection, header in documents:
        metadata = json.loads(header)["descriptive"].get("metadata", {})
        for field, value in field_values(metadata):
            yield {"cube_id": cube_id, "field": field, "value": value, "collection": collection}
