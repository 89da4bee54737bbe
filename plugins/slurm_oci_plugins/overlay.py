"""`writable=tmp` for a directory, by fuse-overlayfs: the image's files under a layer in the task's
private directory, which goes with it.

The kernel's own overlay keeps from the user all that belongs to somebody else: an owner who has no
number in the container cannot be copied (EOVERFLOW). Here everything appears as the user's own.
"""

import os

from slurm_oci import Container, Plan, SettingRefused
from slurm_oci.choose import helper

MERGED = "merged"  # in the private directory: what is mounted there is the root to start from


def is_own(container: Container) -> bool:
    """Whether the image's directory is the user's, so that the kernel's overlay will do."""
    return os.stat(container.image.root).st_uid == container.request.uid


def root(container: Container) -> str:
    """Where a plan that `over` has been given finds the image."""
    return os.path.join(container.private, MERGED)


def over(container: Container, made: Plan) -> Plan:
    """`made`, in whose place for the image this mounts it first. Raises SettingRefused."""
    overlay, unmount = helper("fuse-overlayfs", container), helper("fusermount3", container)
    if not (overlay and unmount):
        raise SettingRefused(
            f"{container.settings.origins['writable']} is `tmp`: for `{container.image.name}` that needs"
            " fuse-overlayfs and fusermount3, which are not both on this node",
            "the site: they are in the packages fuse-overlayfs and fuse3; apptainer and enroot do without",
        )
    private = container.private
    # A link's name holds none of the signs that the options keep for themselves.
    folders = [f"{option}dir={os.path.join(private, option)}" for option in ("lower", "upper", "work")]
    owners = [f"squash_to_uid={container.request.uid}", f"squash_to_gid={os.getegid()}"]
    merged = root(container)
    return made.replace(
        folders=("upper", "work", MERGED, *made.folders),
        links=(("lower", container.image.root), *made.links),
        prepare=((overlay, "-o", ",".join([*folders, *owners]), merged), *made.prepare),
        cleanup=(*made.cleanup, (unmount, "-u", "-z", merged)),
        leaves="",  # it is mounted in any case
    )
