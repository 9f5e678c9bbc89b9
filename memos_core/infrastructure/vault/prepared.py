"""Statements that every write runs, handed to the driver as they are.

SQLAlchemy writes their SQL, once. To hand one over through it takes 18 microseconds of the processor, through the
driver 2, and SQLite needs 3 to 10 to run it; a single add is some fifteen of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import ClauseElement, Connection, Table, insert

__all__ = ["NewRow", "Prepared"]

Values = Mapping[str, Any]


class Prepared:
    """One statement whose values are bound by name. Its errors are the driver's; ``sqlite.typed_errors`` knows them.

    Args:
        statement: Has no lists of values, and none that the driver does not take as they are.
    """

    def __init__(self, statement: ClauseElement) -> None:
        self.statement = statement
        self._sql: dict[str, tuple[str, tuple[str, ...], Values]] = {}

    def first(self, connection: Connection, **values: Any) -> tuple[Any, ...] | None:
        """Return the first row of a query, if there is one."""
        return self.run(connection, values).fetchone()  # type: ignore[no-any-return]

    def all(self, connection: Connection, **values: Any) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        return self.run(connection, values).fetchall()  # type: ignore[no-any-return]

    def run(self, connection: Connection, values: Values) -> Any:
        """Run it and return the driver's cursor."""
        sql, names, fixed = self._sql.get(connection.dialect.name) or self._written(connection)
        given = [values[name] if name in values else fixed[name] for name in names]
        return connection.connection.cursor().execute(sql, given)

    def _written(self, connection: Connection) -> tuple[str, tuple[str, ...], Values]:
        made = self.statement.compile(dialect=connection.dialect)
        written = str(made), tuple(made.positiontup or ()), dict(made.params)  # type: ignore[attr-defined]
        self._sql[connection.dialect.name] = written
        return written


class NewRow(Prepared):
    """Inserts rows of a table: all columns, but for a key that the database makes."""

    def __init__(self, table: Table) -> None:
        columns = [column.name for column in table.c if column is not table.autoincrement_column]
        super().__init__(insert(table).values(dict.fromkeys(columns)))

    def add(self, connection: Connection, row: Values) -> int:
        """Insert one row and return the number that it was given."""
        return int(self.run(connection, row).lastrowid)

    def add_many(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Insert rows in this order."""
        sql, names, _ = self._sql.get(connection.dialect.name) or self._written(connection)
        connection.connection.cursor().executemany(sql, list(map(itemgetter(*names), rows)))
