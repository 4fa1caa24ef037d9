"""Serves a review on this machine alone: one page, which only the link with the token opens."""

import secrets
import socket
from collections.abc import Callable

import uvicorn
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict

from vidclf.exceptions import InputError
from vidclf.review.journal import Action
from vidclf.review.page import Examples, finish_html, next_html, page, written_html
from vidclf.review.session import Session

HOST = "127.0.0.1"
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data:; "
    "media-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Answer(BaseModel):
    """What a button sends: places in lists of the server's, never a path."""

    model_config = ConfigDict(extra="forbid", strict=True)

    question: int
    action: Action
    value: int = -1


class Later(BaseModel):
    """The question that is put off."""

    model_config = ConfigDict(extra="forbid", strict=True)

    question: int


def application(session: Session, examples: Examples, token: str, stop: Callable[[], None]) -> FastAPI:
    """The pages of a review.

    Args:
        examples: Of each class some clips to compare with.
        token: Part of every address; others do not exist.
        stop: Called after the review was finished and that was answered.
    """

    def check(token_given: str) -> None:
        if not secrets.compare_digest(token_given.encode(), token.encode()):
            raise HTTPException(404)

    router = APIRouter(prefix="/{token_given}", dependencies=[Depends(check)])

    def show(message: str = "", status: int = 200) -> HTMLResponse:
        return HTMLResponse(next_html(session, examples, message), status, _HEADERS)

    @router.get("/")
    def whole() -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        policy = {"Content-Security-Policy": _POLICY.format(nonce=nonce)}
        return HTMLResponse(page(session, examples, nonce), headers={**_HEADERS, **policy})

    @router.post("/next")
    def following() -> HTMLResponse:
        return show()

    @router.post("/decide")
    def decide(answer: Answer) -> HTMLResponse:
        try:
            session.decide(answer.question, answer.action, answer.value)
        except InputError as error:
            return show(str(error), 409)
        return show()

    @router.post("/undo")
    def undo() -> HTMLResponse:
        try:
            return show(session.undo())
        except InputError as error:
            return show(str(error), 409)

    @router.post("/later")
    def later(answer: Later) -> HTMLResponse:
        session.put_off(answer.question)
        return show()

    @router.post("/summary")
    def summary() -> HTMLResponse:
        return HTMLResponse(finish_html(session), headers=_HEADERS)

    @router.post("/finish")
    def finish(after: BackgroundTasks) -> HTMLResponse:
        try:
            session.finish()
        except InputError as error:
            return HTMLResponse(finish_html(session, str(error)), 409, _HEADERS)
        after.add_task(stop)
        return HTMLResponse(written_html(session), headers=_HEADERS)

    app = FastAPI(openapi_url=None)

    @app.exception_handler(OSError)
    def unkept(_: Request, error: OSError) -> HTMLResponse:
        return show(f"that was not kept: {error.strerror or error}", 507)

    app.include_router(router)
    # A page of another site may have its name lead here (DNS rebinding), but not its Host header changed.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return app


def serve_review(session: Session, examples: Examples, port: int, announce: Callable[[str], None]) -> None:
    """Serves until the review is finished, or Ctrl-C.

    Args:
        examples: Of each class some clips to compare with.
        port: Port to serve on; 0: a free one.
        announce: Called with the link, as soon as it can be opened.

    Raises:
        InputError: The port is taken.
        KeyboardInterrupt: The user ended it.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise InputError(
                f"port {port}: {error.strerror}; choose another with --port, 0: a free one"
            ) from None
        listener.listen()

        def stop() -> None:
            server.should_exit = True

        token = secrets.token_urlsafe(24)
        app = application(session, examples, token, stop)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=3)
        )
        announce(f"http://{HOST}:{listener.getsockname()[1]}/{token}/")
        server.run(sockets=[listener])
