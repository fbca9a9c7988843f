"""What tells the sources of the compiled part from others, e.g. from those that the module at hand was made of."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sources_digest(folder: Path) -> str:
    """Return the digest of all C in a folder, names and texts."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
