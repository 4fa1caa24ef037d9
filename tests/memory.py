"""Files behind memory:// URLs, for tests of what is fetched, and how often."""

from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem


class Memory:
    """Files behind memory://, and what was asked of them.

    Attributes:
        fetched: URLs in the order in which they were fetched.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._files = MemoryFileSystem()
        self.fetched: list[str] = []
        real = MemoryFileSystem.get_file

        def get_file(driver: MemoryFileSystem, path: str, local: str, **options: Any) -> None:
            self.fetched.append(f"memory://{path.lstrip('/')}")
            real(driver, path, local, **options)

        monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
        monkeypatch.setenv("VIDCLF_URL_SCHEMES", "ftp,memory")

    def put(self, url: str, content: bytes) -> str:
        self._files.pipe_file(url, content)
        return url

    def put_folder(self, folder: Path, url: str) -> str:
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{url}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return url

    def clear(self) -> None:
        self._files.store.clear()
        self._files.pseudo_dirs[:] = [""]
