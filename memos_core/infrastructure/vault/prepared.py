"""Statements whose SQL is written once.

A statement of SQLAlchemy costs some 15 microseconds to execute, and one that is built for the call ten times that;
SQLite answers a question by key in one. A search asks five of them, so there the difference is most of the time; an
add is some fifteen.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Delete, Select, Table, Update, insert

__all__ = ["Change", "NewRow", "Prepared"]

Values = Mapping[str, Any]


class Prepared:
    """A query that is asked often, within the transaction of a connection. Thread-safe.

    Its values are named by ``bindparam`` and must be of types that the driver takes and returns as they are: numbers,
    texts and bytes. A list of values ("expanding") has no fixed SQL and is not possible.
    """

    def __init__(self, query: Select[Any]) -> None:
        self.query = query
        self._made: dict[str, tuple[str, Any, Values]] = {}
        self._row = row_type([str(column.key) for column in query.selected_columns])._make

    def all(self, connection: Connection, **values: Any) -> list[Any]:
        """Return the rows, as named tuples."""
        return list(map(self._row, self._asked(connection, values).fetchall()))

    def first(self, connection: Connection, **values: Any) -> Any:
        """Return the first row as a named tuple, or None."""
        row = self._asked(connection, values).fetchone()
        return None if row is None else self._row(row)

    def _asked(self, connection: Connection, values: Values) -> Any:
        sql, in_order, constants = self._made.get(connection.dialect.name) or self._written(connection)
        return driver(connection).execute(sql, in_order({**constants, **values} if constants else values))

    def _written(self, connection: Connection) -> tuple[str, Any, Values]:
        compiled: Any = self.query.compile(dialect=connection.dialect)
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        self._made[connection.dialect.name] = str(compiled), ordered(compiled.positiontup or ()), constants
        return self._made[connection.dialect.name]


def row_type(names: Sequence[str]) -> Any:
    return namedtuple("Row", names, rename=True)


def ordered(names: Sequence[str]) -> Any:
    """Return what takes the values of these names out of a mapping, as a tuple."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple(values[name] for name in names)


class Change:
    """A change that is made often, of one row at a time, under the same conditions as ``Prepared``. Thread-safe.

    What the database refuses is raised as the driver's error; ``sqlite.typed_errors`` knows those.
    """

    def __init__(self, statement: Update | Delete) -> None:
        self._statement = statement
        self._made: dict[str, tuple[str, Any]] = {}

    def run(self, connection: Connection, values: Values) -> None:
        """Make the change; ``values`` are those that the statement names, and no others."""
        sql, in_order = self._made.get(connection.dialect.name) or written(self._made, self._statement, connection)
        driver(connection).execute(sql, in_order(values))


class NewRow:
    """Inserts rows of a table: all its columns, but for a key that the database makes. Thread-safe."""

    def __init__(self, table: Table) -> None:
        columns = [column.name for column in table.c if column is not table.autoincrement_column]
        self._statement = insert(table).values(dict.fromkeys(columns))
        self._made: dict[str, tuple[str, Any]] = {}

    def add(self, connection: Connection, row: Values) -> int:
        """Insert one row and return the number that it was given."""
        sql, in_order = self._made.get(connection.dialect.name) or written(self._made, self._statement, connection)
        return int(driver(connection).execute(sql, in_order(row)).lastrowid)

    def add_many(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Insert rows in this order."""
        sql, in_order = self._made.get(connection.dialect.name) or written(self._made, self._statement, connection)
        if len(rows) == 1:
            driver(connection).execute(sql, in_order(rows[0]))
        else:
            driver(connection).executemany(sql, list(map(in_order, rows)))


def driver(connection: Connection) -> Any:
    """Return the connection as the driver knows it: SQLAlchemy's way to a cursor takes longer than many a statement."""
    return connection.connection.dbapi_connection


def written(made: dict[str, tuple[str, Any]], statement: Any, connection: Connection) -> tuple[str, Any]:
    """Return the SQL of a change in the words of the database, and what takes its values out of a row, in order."""
    compiled: Any = statement.compile(dialect=connection.dialect)
    made[connection.dialect.name] = str(compiled), ordered(compiled.positiontup)
    return made[connection.dialect.name]
