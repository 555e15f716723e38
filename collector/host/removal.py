"""Whether the owner of a file could remove it himself: root must not do for him what he may not do."""

from __future__ import annotations

import os
import stat

from collector.host.files import Host, has_acl
from collector.host.groups import is_member
from collector.host.trusted_path import FoundDirectory

OWNER_RIGHTS = stat.S_IWUSR | stat.S_IXUSR
GROUP_RIGHTS = stat.S_IWGRP | stat.S_IXGRP
OTHER_RIGHTS = stat.S_IWOTH | stat.S_IXOTH


def may_remove(host: Host, found: FoundDirectory, file: os.stat_result) -> bool:
    """
    Return whether the owner of *file* may remove it from a directory.

    He needs to write and search it; that it is sticky does not hinder an owner. An access control list is not read:
    with one, only the directory's owner, and root, may. Root's own files are not removed from a directory of
    root's that somebody else can have put at its path; what is in a user's, he can remove himself.

    Args:
        host: Gives access to the machine's groups.
        found: The directory.
        file: Its fstat.

    Source: may_delete() in fs/namei.c; path_resolution(7), "Permissions".
    """
    directory = os.fstat(found.fd)
    if file.st_uid == 0:
        return found.trusted or directory.st_uid not in {0, os.geteuid()}
    if file.st_uid == directory.st_uid:
        return _has(directory, OWNER_RIGHTS)
    if has_acl(found.fd):
        return False
    if is_member(host, file.st_uid, directory.st_gid) or file.st_gid == directory.st_gid:
        return _has(directory, GROUP_RIGHTS)
    return _has(directory, OTHER_RIGHTS)


def _has(directory: os.stat_result, rights: int) -> bool:
    return directory.st_mode & rights == rights
