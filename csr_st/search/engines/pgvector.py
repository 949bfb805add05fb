"""Codes in PostgreSQL: a table with a pgvector `sparsevec` column, beside your other tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from csr_st.search.engines.base import Code, Document, Engine, Field, Hit, check_version, require
from csr_st.search.engines.keys import IdType, Key, check_id_type, wrong_id_type
from csr_st.search.numbers import whole

_MIN_VERSION = (0, 7)  # the first with sparsevec
_MAX_NAME = 63  # bytes; PostgreSQL cuts longer ones
_LOCK = 0x6373725F7374  # of those who make tables, any number that others do not use
_ID_TYPES = {"int": "bigint", "str": "text"}


class PgvectorEngine(Engine):
    """A table of id, code (sparsevec) and payload (jsonb).

    Search is exact: PostgreSQL compares with every row. pgvector stores up to 16,000 non-zeros per
    row; its HNSW index, which you can add yourself, takes up to 1,000.

    Args:
        dsn: Connection string, postgresql://...
        hidden_dim: Number of latents.
        table: Name of up to 63 bytes; created if missing, like the extension.
        timeout: Seconds to wait for the server.
        id_type: "int" or "str".

    Raises:
        ImportError: If psycopg is not installed.
        ConnectionError: If the server cannot be reached.
        TypeError: If hidden_dim is not an integer, or the name not a string.
        ValueError: If hidden_dim, the name or the connection string is not possible, pgvector is
            missing or too old, or the table has other columns or ids of the other kind.
    """

    def __init__(
        self,
        dsn: str,
        hidden_dim: int,
        table: str = "csr_st",
        timeout: int = 30,
        *,
        id_type: IdType = "int",
    ) -> None:
        self._psycopg = require("psycopg", "pgvector")
        self._sql = require("psycopg.sql", "pgvector")
        self.hidden_dim = whole("hidden_dim", hidden_dim)
        self.id_type = check_id_type(id_type)
        self._name = _checked_name(table)
        self._table = self._sql.Identifier(table)
        self._address, self._timeout, self._ended = dsn, timeout, False
        self._connection = self._connect()
        # One transaction: an error leaves neither the extension nor the table behind.
        with self._closed_on_error(), self._connection.transaction():
            self._prepare()

    def _connect(self) -> Any:
        try:
            return self._psycopg.connect(
                self._address, connect_timeout=self._timeout, autocommit=True
            )
        except self._psycopg.OperationalError as error:
            raise ConnectionError(
                f"no PostgreSQL answers: {_message(error)}; start it, or correct the connection "
                "string"
            ) from error
        except self._psycopg.ProgrammingError as error:
            raise ValueError(
                f"this is not a connection string: {_message(error)}; pass "
                "postgresql://user@host/database"
            ) from error

    def _is_lost(self, error: Exception) -> bool:
        return isinstance(error, self._psycopg.OperationalError) and bool(self._connection.closed)

    def _live(self) -> Any:
        """The connection, made anew if it was lost."""
        if self._connection.closed and not self._ended:
            self._connection = self._connect()
        return self._connection

    def _prepare(self) -> None:
        """Make what is missing, which needs rights that a reader of a table does not have."""
        if not self._version() or not self._columns():
            # Else those who open it at the same time make the same things, and all but one fail.
            self._execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        if not self._version():
            try:
                self._execute("CREATE EXTENSION vector")
            except self._psycopg.Error as error:
                raise ValueError(
                    f"this PostgreSQL has no pgvector to enable: {error}; install pgvector 0.7 or "
                    "newer there, and let its owner run CREATE EXTENSION vector"
                ) from error
        fix = "install it and run ALTER EXTENSION vector UPDATE"
        check_version("pgvector in this database", str(self._version()), _MIN_VERSION, fix)
        wanted = {"id": _ID_TYPES[self.id_type], "code": f"sparsevec({self.hidden_dim})"}
        wanted["payload"] = "jsonb"
        if not self._columns():
            # Strings are compared by their bytes, in every locale of a database.
            collation = ' COLLATE "C"' if self.id_type == "str" else ""
            self._execute(
                f"CREATE TABLE {{table}} (id {wanted['id']}{collation} PRIMARY KEY, "
                f"code {wanted['code']} NOT NULL, payload jsonb NOT NULL)"
            )
        found = self._columns()
        other: IdType = "int" if self.id_type == "str" else "str"
        if found.get("id") == _ID_TYPES[other]:
            raise wrong_id_type(self._name, other)
        for name, kind in wanted.items():
            if found.get(name) != kind:
                raise ValueError(
                    f"table {self._name!r} has {name} of type {found.get(name, 'no column')}, not "
                    f"{kind}; choose another name"
                )

    def _version(self) -> str | None:
        """Of the extension, if it is enabled."""
        row = self._execute(
            "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        ).fetchone()
        return None if row is None else str(row[0])

    def _columns(self) -> dict[str, str]:
        """The columns of the table and their types; none where there is no table."""
        rows = self._execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [self._table.as_string(self._connection)],
        )
        return dict(rows.fetchall())

    def _execute(self, statement: str, parameters: Any = None, **names: Any) -> Any:
        query = self._sql.SQL(statement).format(table=self._table, **names)
        return self._live().execute(query, parameters)

    def _count(self) -> int:
        return int(self._execute("SELECT count(*) FROM {table}").fetchone()[0])

    def close(self) -> None:
        """Close the connection."""
        self._ended = True
        self._connection.close()

    def _fetch(self, ids: list[Key], field: Field) -> dict[Key, Any]:
        statement = "SELECT id, {field} FROM {table} WHERE id = ANY(%s)"
        rows = self._execute(statement, [ids], field=self._sql.Identifier(field))
        return {key: _from_text(value) if field == "code" else value for key, value in rows}

    def _write(self, documents: list[Document]) -> None:
        as_json = require("psycopg.types.json", "pgvector").Jsonb
        statement = self._sql.SQL(
            "INSERT INTO {table} (id, code, payload) VALUES (%s, %s::sparsevec, %s) "
            "ON CONFLICT (id) DO NOTHING"
        ).format(table=self._table)
        rows = [(one.id, self._text(one.code), as_json(one.payload)) for one in documents]
        connection = self._live()
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(statement, rows)

    def _delete(self, ids: list[Key]) -> None:
        self._execute("DELETE FROM {table} WHERE id = ANY(%s)", [ids])

    def _search(
        self, queries: list[Code], top_k: int, allowed: list[Key] | None
    ) -> Iterator[list[Hit]]:
        condition = self._sql.SQL("" if allowed is None else "WHERE id = ANY(%(ids)s)")
        for code in queries:
            rows = self._execute(
                "SELECT code <#> %(q)s::sparsevec AS distance, id FROM {table} {condition} "
                "ORDER BY distance, id LIMIT %(n)s",
                {"q": self._text(code), "n": top_k, "ids": allowed},
                condition=condition,
            )
            yield [Hit(-float(distance), document) for distance, document in rows]

    def _text(self, code: Code) -> str:
        """A code in pgvector's notation, which counts dimensions from 1."""
        entries = ",".join(f"{latent + 1}:{value!r}" for latent, value in code.items())
        return f"{{{entries}}}/{self.hidden_dim}"


def _checked_name(table: Any) -> str:
    if not isinstance(table, str):
        raise TypeError(f"table={table!r} is a {type(table).__name__}; pass a name")
    length = len(table.encode())
    if not 1 <= length <= _MAX_NAME:
        raise ValueError(
            f"table {table[:40]!r} has {length} bytes; PostgreSQL's names have 1..{_MAX_NAME}, and "
            "longer ones that begin alike would be one table"
        )
    if "%" in table or "\0" in table:
        raise ValueError(f"table {table!r} has a '%' or NUL in it; choose a name without")
    return table


def _from_text(text: str) -> Code:
    entries = re.findall(r"(\d+):([^,}]+)", text)
    return {int(place) - 1: float(value) for place, value in entries}


def _message(error: Exception) -> str:
    return str(error).strip()  # libpq ends its messages with a new line
