"""What can go wrong when publishing, as one plain line that holds no secret.

The client's own messages may quote URLs and headers; nothing of them is passed on but the status.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

FAILURES: tuple[type[BaseException], ...] = (
    OSError,
    RuntimeError,  # how the client wraps what broke an upload
    # httpx in huggingface-hub 1, httpx2 in 2: the base of every error that its requests raise.
    *(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError"),
)
REASONS = {
    401: "the token is missing or refused: run `hf auth login`, or pass a valid token",
    403: "the token may not write to {repo_id}: use one with write access to it",
    404: "{repo_id} was not found with this token: check the name and the token's access",
    409: "{repo_id} was changed meanwhile: push again",
    412: "{repo_id} was changed meanwhile: push again",
    429: "the Hub asks to slow down: wait a few minutes and push again",
}


def check_repo_id(repo_id: str) -> None:
    """Refuse a name that cannot be a repository's.

    Raises:
        ValueError: If it is none; a token within it is not repeated.
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
        raise ValueError("the token holds spaces or characters that no token has: copy it again")


@contextmanager
def plain_errors(endpoint: str, repo_id: str) -> Iterator[None]:
    """Turn what the Hub's client raises into a ConnectionError of one plain line.

    Raises:
        ConnectionError: If the Hub refuses, or cannot be reached, or the connection breaks.
    """
    try:
        yield
    except OfflineModeIsEnabled:
        raise ConnectionError(
            "HF_HUB_OFFLINE is set; nothing was published: unset it and push again"
        ) from None
    except FAILURES as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # a file here, not the Hub
        refusal = _refusal(error)
        status = None if refusal is None else refusal.response.status_code
        if status is None:
            raise ConnectionError(
                f"the connection to {endpoint} failed ({_root(error)}); the model is on the Hub "
                "whole or not at all: check the connection and push again"
            ) from None
        raise ConnectionError(_explain(status, repo_id)) from None


def _refusal(error: BaseException | None) -> HfHubHTTPError | None:
    """The Hub's answer behind an error, if it gave one: uploads wrap it."""
    while error is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    return error


def _root(error: BaseException) -> str:
    """Kind of the first error in a chain: its words may quote headers, its name cannot."""
    while error.__cause__ is not None:
        error = error.__cause__
    return type(error).__name__


def _explain(status: int, repo_id: str) -> str:
    later = f"the Hub answered with status {status}: push again later"
    return f"nothing was published: {REASONS.get(status, later).format(repo_id=repo_id)}"
