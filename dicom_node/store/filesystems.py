"""Which file systems SQLite may not lie on: over a network its locks do not hold, and data are lost."""

from __future__ import annotations

import os
from pathlib import Path

from dicom_node.errors import StoreUnavailable

NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "glusterfs", "ceph", "lustre", "beegfs", "gpfs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone"),
    }
)


def check(folder: Path) -> None:
    """Raises StoreUnavailable."""
    file_system = kind_of(folder)
    if file_system in NETWORK_FILE_SYSTEMS:
        raise StoreUnavailable(
            f"SQLite loses data on a network file system, and {folder} is {file_system}; "
            "use a local disk for node.data_folder, or PostgreSQL in node.database_url"
        )


def kind_of(folder: Path) -> str | None:
    """Type of the file system that holds `folder`, if the kernel says (Linux); otherwise None."""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    target = os.path.realpath(folder)
    best: tuple[str, str | None] = ("", None)
    for line in mounts:
        _, point, kind, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]
