"""Checks an archive before it is opened: decompressed, it may be no larger than it declares."""

import zipfile
from pathlib import Path

from vidclf.exceptions import InputError


def check_archive(path: Path) -> None:
    """Refuses a zip archive that unpacks to more than it weighs, before anything of it is unpacked.

    Neither torch nor skops compress what they write unless told so; vidclf doesn't.

    Raises:
        InputError: It is no archive, or unpacks to more.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            inside = sum(member.file_size for member in archive.infolist())
    # The last one is how zipfile refuses an archive that needs a newer version of the format to be read.
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InputError(f"{path}: not a readable archive: {error}") from None
    outside = path.stat().st_size
    if inside > outside:
        raise InputError(
            f"{path}: not opened: its {outside:,} bytes would unpack to {inside:,}, and what is saved for "
            "vidclf is not compressed"
        )
