"""What a refused request is answered with: one sentence with value, bound and fix, as JSON.

The form is that of text-embeddings-inference, ``{"error", "error_type"}``; below ``/v1/`` it is
that of OpenAI, ``{"error": {"message", "type", "param", "code"}}``.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

RETRY_SECONDS = 1  # after which a client may try again: a batch takes less
SHOWN = 60  # characters of a wrong value

# By status: the kind in the form of text-embeddings-inference, and in that of OpenAI.
_KINDS = {
    400: ("Validation", "invalid_request_error"),
    401: ("Unauthorized", "authentication_error"),
    408: ("Timeout", "invalid_request_error"),
    429: ("Overloaded", "rate_limit_error"),
    500: ("Backend", "server_error"),
    503: ("Overloaded", "server_error"),
}


class Refused(Exception):
    """A request that is answered with an error.

    Args:
        status: The HTTP status.
        message: What is wrong, in which bounds it must be, and what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def error_response(path: str, status: int, message: str) -> JSONResponse:
    """The answer to a refused request, in the form that clients of its path read."""
    kind, openai_kind = _KINDS.get(status, _KINDS[400])
    content: dict[str, Any] = {"error": message, "error_type": kind}
    if path.startswith("/v1/"):
        error = {"message": message, "type": openai_kind, "param": None, "code": status}
        content = {"error": error}
    headers = {}
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        headers["Retry-After"] = str(RETRY_SECONDS)
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(content, status, headers)


def add_handlers(app: FastAPI) -> None:
    """Answer all errors of an app in one form."""
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _of_framework)
    app.add_exception_handler(Exception, _unexpected)  # is logged with its traceback too


def path_of(scope: Any) -> str:
    """The path of a request within the app, which may be mounted in another."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return error_response(path_of(request.scope), error.status, str(error))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """The first of pydantic's errors, in one sentence."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = [str(part)[:SHOWN] for part in first["loc"] if part != "body"]
    path = path_of(request.scope)
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "it cannot be read")
        at = f" at character {place[0]}" if place else ""
        return error_response(path, 400, f"the body is not JSON: {reason}{at}; post an object")
    if first["type"] == "extra_forbidden" and not place:
        place = [first["msg"]]
    if not place:
        return error_response(path, 422, "the body is no JSON object; post one, {...}")
    name = ".".join(place)
    reason = first["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    if first["type"] == "missing":
        reason = "this field is required"
    elif first["type"] == "extra_forbidden":
        reason = "there is no such field; leave it out"
    elif first["type"] != "value_error":
        reason = f"{reason}, and it is {shown(first.get('input'))}"
    return error_response(path, 422, f"{name}: {reason}")


async def _of_framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    path = path_of(request.scope)
    message = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND:
        message = f"there is no {shown(path)} here; /openapi.json lists what there is"
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{request.method} is not for {path}; use {allowed}"
    elif error.status_code == HTTPStatus.BAD_REQUEST:  # of a body that breaks the parser
        message = "the body is not JSON that can be read; post an object in UTF-8"
    response = error_response(path, error.status_code, message)
    response.headers.update(error.headers or {})
    return response


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    kind = type(error).__name__
    return error_response(path_of(request.scope), 500, f"{kind}; the server's log says more")


def shown(value: Any) -> str:
    """A wrong value for a message, shortened."""
    text = repr(value[:SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
