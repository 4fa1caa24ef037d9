"""Optuna's own dashboard on a store's studies: the extra ``dashboard``."""

import contextlib
import socketserver
from collections.abc import Callable, Mapping
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from vidclf.exceptions import InputError
from vidclf.runs.store import Store
from vidclf.search.record.storage import existing_storage


class _Threaded(socketserver.ThreadingMixIn, WSGIServer):
    """A browser asks for many things at once."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's name
        """Requests are not told."""


def serve_dashboard(
    store: Store,
    port: int,
    announce: Callable[[str, Mapping[str, str]], None],
    *,
    study: str | None = None,
    host: str = "127.0.0.1",
) -> None:
    """Serves Optuna's dashboard until Ctrl-C.

    Args:
        store: Its studies are shown.
        port: Port to serve on.
        announce: Called once it can be opened, with its link.
        study: What to open; ``None``: the list of studies.
        host: Address to serve on.

    Raises:
        InputError: The extra is missing, there is no study, or the port is taken.
    """
    try:
        from optuna_dashboard import wsgi
    except ModuleNotFoundError:
        raise InputError("--optuna needs optuna-dashboard: pip install 'vidclf[dashboard]'") from None
    storage = existing_storage(store)
    if storage is None:
        raise InputError(f"{store.folder}: there is no study here yet; vidclf tune starts one")
    page = f"studies/{storage.get_study_id_from_name(study)}" if study else ""
    try:
        server = make_server(host, port, wsgi(storage), _Threaded, _Quiet)
    except OSError as error:
        raise InputError(f"{host}, port {port}: {error.strerror}; choose another with --port") from None
    with server, contextlib.suppress(KeyboardInterrupt):
        announce(f"http://{host}:{server.server_port}/dashboard/{page}", {})
        server.serve_forever()
