"""An S3 server that tests start on this machine, and that counts what it is asked for."""

import importlib
import logging
import os
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


def need_module(name: str) -> Any:
    """A module that a service needs; without it the test is skipped, or fails where services are required."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if os.environ.get("VIDCLF_REQUIRE_SERVICES"):
            raise
        pytest.skip(f"{name} is not installed")


@dataclass
class S3Server:
    """An S3 server in this process, with one bucket.

    Attributes:
        endpoint: Its address.
        bucket: The bucket's name.
        requests: How often each method was called on each object, as ``("GET", "folder/a.avi")``.
    """

    endpoint: str
    bucket: str = "clips"
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def environment(self) -> dict[str, str]:
        """What any S3 client on this machine needs to find it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def client(self) -> Any:
        return need_module("boto3").client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id="somebody",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )

    def put(self, key: str, content: bytes) -> str:
        """Writes an object; its URL."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)
        return f"{self.url}/{key}"

    def put_folder(self, folder: Path, key: str) -> str:
        """Writes all files below a folder; the URL of its counterpart."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{key}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"{self.url}/{key}"

    def objects(self) -> list[str]:
        """Keys of all that is in the bucket."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", ()))

    def reads(self, key: str) -> dict[str, int]:
        """How often each object below ``key`` was fetched."""
        return {
            name.removeprefix(f"{key}/"): count
            for (method, name), count in self.requests.items()
            if method == "GET" and name.startswith(f"{key}/")
        }


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A running S3 server; this process's own clients find it by ``S3Server.environment`` only."""
    moto = need_module("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        server = S3Server(f"http://{host}:{port}")
        moto._server.app = _counting(moto._server.app, server)
        urllib.request.urlopen(f"{server.endpoint}/moto-api/reset", data=b"").close()  # what another one had
        server.client.create_bucket(Bucket=server.bucket)
        yield server
    finally:
        moto.stop()
        need_module("s3fs").S3FileSystem.clear_instance_cache()  # they remember the address


def _counting(app: Callable[..., Iterable[bytes]], server: S3Server) -> Callable[..., Iterable[bytes]]:
    def counted(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        key = environ["PATH_INFO"].removeprefix(f"/{server.bucket}").lstrip("/")
        server.requests[environ["REQUEST_METHOD"], key] += 1
        return app(environ, start_response)

    return counted
