"""What can go wrong between here and the Hub, as one plain line without secrets.

The messages of the Hub's client may quote URLs and headers; only the status is passed on.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

# HTTPError is that of httpx or httpx2, whichever this version of the client uses.
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
REASONS = {
    401: "the token is missing or refused: run `hf auth login`, or pass a valid token",
    403: "the token may not write to {repo_id}: use one with write access to it",
    404: "{repo_id} was not found with this token: check the name and the token's access",
    409: "{repo_id} was changed meanwhile: push again",
    412: "{repo_id} was changed meanwhile: push again",
    429: "the Hub asks to slow down: wait a few minutes and {again}",
}


class Attempt(NamedTuple):
    """Phrases of error messages about one kind of Hub operation.

    Attributes:
        nothing: The operation had no effect, such as "nothing was published".
        again: The advice to retry, such as "push again".
        state: What is on the Hub or here after a broken connection.
    """

    nothing: str
    again: str
    state: str


PUBLISHING_A_MODEL = Attempt(
    "nothing was published", "push again", "the model is on the Hub complete or not at all"
)
PUBLISHING = Attempt(
    "nothing was published",
    "push again",
    "nothing is on the Hub, or all of it; files that were sent are not sent again",
)
LOADING = Attempt("nothing was loaded", "load again", "what is complete here is not fetched again")


def check_repo_id(repo_id: str) -> None:
    """Refuse a name that cannot be a repository's.

    Raises:
        ValueError: If it cannot; a token within it is not repeated.
    """
    name = r"[A-Za-z0-9](?:[\w.-]{0,94}\w)?"
    if not re.fullmatch(rf"(?:{name}/)?{name}", repo_id, flags=re.ASCII) or ".." in repo_id:
        shown = re.sub(r"hf_\w+", "hf_...", repo_id)
        raise ValueError(
            f"repository {shown!r} must be a name such as 'org/my-model': letters, digits, '.', "
            "'_' and '-'"
        )


def check_token(token: str | None) -> None:
    """Refuse a token that no request header can carry, before an error can quote it.

    Raises:
        ValueError: If it is such a token.
    """
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise ValueError("the token has spaces or invalid characters: copy it again")


@contextmanager
def plain_errors(
    endpoint: str, repo_id: str, attempt: Attempt = PUBLISHING_A_MODEL
) -> Iterator[None]:
    """Turn what the Hub's client raises into a ConnectionError of one plain line.

    Raises:
        ConnectionError: If the Hub refuses, or cannot be reached, or the connection breaks.
    """
    try:
        yield
    except OfflineModeIsEnabled:
        raise ConnectionError(
            f"HF_HUB_OFFLINE is set; {attempt.nothing}: unset it and {attempt.again}"
        ) from None
    except (OSError, RuntimeError, HTTPError) as error:  # the client wraps broken uploads in these
        if isinstance(error, OSError) and (error.filename or error.errno in OF_A_DISK):
            raise  # a local file, not the Hub
        raise ConnectionError(_explained(error, endpoint, repo_id, attempt)) from None


def _explained(error: BaseException | None, endpoint: str, repo_id: str, attempt: Attempt) -> str:
    """The Hub's refusal if there is one in the chain of causes, or else a broken connection."""
    kind = type(error)
    while error is not None:
        if isinstance(error, RevisionNotFoundError):
            return f"{attempt.nothing}: {repo_id} has no such revision: check its name"
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            later = f"the Hub answered with status {status}: {attempt.again} later"
            reason = REASONS.get(status, later).format(repo_id=repo_id, again=attempt.again)
            return f"{attempt.nothing}: {reason}"
        # Only the name of the first cause is shown: its message may quote headers.
        kind, error = type(error), error.__cause__
    return (
        f"the connection to {endpoint} failed ({kind.__name__}); {attempt.state}: check the "
        f"connection and {attempt.again}"
    )
