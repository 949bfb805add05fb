"""Codes in PostgreSQL: a table with a pgvector `sparsevec` column, beside your other tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from csr_st.search.engines.base import Code, Document, Engine, Field, Hit, check_version, require
from csr_st.search.engines.keys import IdType, Key, check_id_type, wrong_id_type

_MIN_VERSION = (0, 7)  # the first with sparsevec
# Strings are compared by their bytes, in every locale of a database.
_ID_TYPES = {"int": "bigint", "str": 'text COLLATE "C"'}


class PgvectorEngine(Engine):
    """A table of id, code (sparsevec) and payload (jsonb).

    Search is exact: PostgreSQL compares with every row. pgvector stores up to 16,000 non-zeros per
    row; its HNSW index, which you can add yourself, takes up to 1,000.

    Args:
        dsn: Connection string, postgresql://...
        hidden_dim: Number of latents.
        table: Name; created if missing, like the extension.
        timeout: Seconds to wait for the server.
        id_type: "int" or "str".

    Raises:
        ImportError: If psycopg is not installed.
        ConnectionError: If the server cannot be reached.
        ValueError: If the connection string is not valid, pgvector is missing or too old, or the
            table has other columns or ids of the other kind.
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
        sql = require("psycopg.sql", "pgvector")
        self._sql = sql
        self.hidden_dim = hidden_dim
        self.id_type = check_id_type(id_type)
        self._name = table
        self._table = sql.Identifier(table)
        try:
            self._connection = self._psycopg.connect(dsn, connect_timeout=timeout, autocommit=True)
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
        self._lost = (self._psycopg.OperationalError,)
        # One transaction: an error leaves neither the extension nor the table behind.
        with self._closed_on_error(), self._connection.transaction():
            self._prepare()

    def _prepare(self) -> None:
        try:
            self._connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except self._psycopg.Error as error:
            raise ValueError(
                f"this PostgreSQL has no pgvector to enable: {error}; install pgvector 0.7 or "
                "newer there, and let its owner run CREATE EXTENSION vector"
            ) from error
        version = self._connection.execute(
            "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        ).fetchone()[0]
        fix = "install it and run ALTER EXTENSION vector UPDATE"
        check_version("pgvector in this database", version, _MIN_VERSION, fix)
        self._execute(
            f"CREATE TABLE IF NOT EXISTS {{table}} (id {_ID_TYPES[self.id_type]} PRIMARY KEY, "
            f"code sparsevec({self.hidden_dim}) NOT NULL, payload jsonb NOT NULL)"
        )
        columns = dict(
            self._connection.execute(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
                "WHERE attrelid = %s::regclass AND attname IN ('id', 'code')",
                [self._table.as_string(self._connection)],
            ).fetchall()
        )
        if columns.get("code") != f"sparsevec({self.hidden_dim})":
            raise ValueError(
                f"table {self._name!r} has {columns.get('code', 'no codes')}, not "
                f"sparsevec({self.hidden_dim}); choose another name"
            )
        stored: IdType = "str" if columns.get("id") == "text" else "int"
        if stored != self.id_type:
            raise wrong_id_type(self._name, stored)

    def _execute(self, statement: str, parameters: Any = None, **names: Any) -> Any:
        query = self._sql.SQL(statement).format(table=self._table, **names)
        return self._connection.execute(query, parameters)

    def __len__(self) -> int:
        return int(self._execute("SELECT count(*) FROM {table}").fetchone()[0])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _fetch(self, ids: list[Key], field: Field) -> dict[Key, Any]:
        statement = "SELECT id, {field} FROM {table} WHERE id = ANY(%s)"
        rows = self._execute(statement, [ids], field=self._sql.Identifier(field))
        return {key: _from_text(value) if field == "code" else value for key, value in rows}

    def _write(self, documents: list[Document]) -> None:
        as_json = require("psycopg.types.json", "pgvector").Jsonb
        statement = self._sql.SQL(
            "INSERT INTO {table} VALUES (%s, %s::sparsevec, %s) ON CONFLICT (id) DO NOTHING"
        ).format(table=self._table)
        rows = [(one.id, self._text(one.code), as_json(one.payload)) for one in documents]
        with self._connection.transaction(), self._connection.cursor() as cursor:
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


def _from_text(text: str) -> Code:
    entries = re.findall(r"(\d+):([^,}]+)", text)
    return {int(place) - 1: float(value) for place, value in entries}


def _message(error: Exception) -> str:
    return str(error).strip()  # libpq ends its messages with a new line
