"""What runc and crun have in common: a bundle of the task's own, from which they run.

The user's config.json is only read. The copy lies in the task's private directory, with what a job
needs: the command, the job's variables and mounts, no namespaces but user and mount, no limits or
control groups but Slurm's. Source of the fields: the OCI Runtime Specification, config.md.
"""

import os

from slurm_oci import Container, File, Mount, Plan, plainjson, problems
from slurm_oci.bundle import is_bind
from slurm_oci.container import HOST, has_gpus, placed, require_utf8, with_host, workdir_in
from slurm_oci.cover import Cover, cover, covers
from slurm_oci.job import STANDARD_PATH
from slurm_oci.rootfs import is_below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "task"  # of the container: each has a state directory to itself
# What the user may not take away from a mount: statvfs(3)'s flags as a bundle's options write them. (How
# access times are kept stays as it is where nothing is said, and crun 1.28 takes `relatime` for another.)
LOCKED = {os.ST_NOSUID: "nosuid", os.ST_NODEV: "nodev", os.ST_NOEXEC: "noexec"}


def plan_for(
    container: Container,
    name: str,
    options: tuple[str, ...],
    own_terminal: bool = True,
    needs_root: bool = False,
) -> Plan:
    """The plan of a runtime with runc's command line; `options` go before its command. Where the job
    has a terminal, the container gets one of its own unless `own_terminal` is false. `needs_root`: it
    wants a uid 0 in the container, so that is what a user is called whom the bundle does not name."""
    require_utf8(name, container)
    image, private = container.image.root, container.private
    terminal = own_terminal and os.isatty(0) and os.isatty(1)
    container = with_host(container)
    mounts, lacking = placed(container)
    workdir, notes = workdir_in(container)
    keep = container.settings.writable == "no"
    # Where the image may change, the runtime makes the mount points in it.
    needed = covers(image, mounts, lacking) if keep else ()
    if needed and needed[0].parent != "/":
        # The image's own directory must stay as it is below the mounts: they are brought back from it.
        needed = (cover(image, "/", [], {mount.target for mount in mounts}), *needed)
    laid = [Laid(image, one, f"bundle/cover{n}") for n, one in enumerate(needed)]
    root = next((os.path.join(private, one.place) for one in laid if one.cover.parent == "/"), image)
    if container.settings.writable == "tmp":
        from slurm_oci_plugins import overlay  # few tasks ask for it

        root = overlay.root(container)
    binds = [bind for one in laid for bind in one.binds(private)]
    size = os.get_terminal_size(0) if terminal else None
    if terminal:
        console = Mount(os.devnull, "/dev/console")
        laid.append(Laid("", cover("", "/dev", [console], {console.target}), "bundle/dev"))
        after = next(n for n, mount in enumerate(mounts) if mount.target == "/dev")
        mounts = (*mounts[:after], *laid[-1].binds(private), *mounts[after + 1 :])
    ids = ids_of(container, name, needs_root)
    if "PMIX_NAMESPACE" in container.job.env:
        from slurm_oci import mpi  # only tasks that are offered it pay for it

        container, about_mpi = mpi.for_user(container, ids["uid"], ids["gid"])
        notes += about_mpi
    config = config_for(container, ids, root, workdir, size, (*binds, *mounts))
    executable = container.executables[name]
    kept = ("--preserve-fds", str(container.descriptors)) if container.descriptors else ()
    state = ("--root", os.path.join(private, "state"))
    extra = (*container.arguments, *kept)
    bundle = ("--bundle", os.path.join(private, "bundle"))
    env = {"PATH": STANDARD_PATH, "HOME": container.job.home, "XDG_RUNTIME_DIR": private, **container.own}
    made = Plan(
        argv=(executable, *options, *state, "run", *extra, *bundle, NAME),
        env=env,
        folders=("bundle", "state", *(folder for one in laid for folder in one.folders())),
        links=tuple(link for one in laid for link in one.links()),
        files=(*(file for one in laid for file in one.files()), File("bundle/config.json", config)),
        cleanup=((executable, *options, *state, "delete", "--force", NAME),),
        leaves=os.path.join(private, "state", NAME),  # gone where `run` itself came to its end
        descriptors=container.descriptors,
        umask=0o022,
        notes=notes,
    )
    return overlay.over(container, made) if container.settings.writable == "tmp" else made


def step_by_step(made: Plan) -> Plan:
    """`made` by `plan_for`, with create, start, kill and delete in place of run: how Slurm itself calls
    such a runtime, and how the Containers Guide has it tested. Its command must wait to be killed."""
    at = made.argv.index("run")
    runtime, words = made.argv[:at], made.argv[at + 1 :]
    steps = (("create", *words), ("start", NAME), ("kill", NAME, "KILL"))
    return made.replace(
        argv=(*runtime, "delete", "--force", NAME),
        prepare=tuple((*runtime, *step) for step in steps),
    )


def require_home(container: Container) -> None:
    """Raises ArgumentRefused for what runc, and what starts it, would change."""
    if container.env.get("HOME") == "":
        raise problems.ArgumentRefused(
            "the variable HOME is empty, and `runc` would set it from the image's /etc/passwd",
            "unset it, or take another runtime: `slurm-oci-plugins list` shows what this node has",
        )


def with_gpus(container: Container) -> tuple[Container, tuple[str, ...]]:
    """The container with what the step's GPUs need, and notes. Raises SettingRefused."""
    if not has_gpus(container):
        return container, ()
    from slurm_oci_plugins import gpus  # few tasks have some

    return gpus.edited(container)


class Laid:
    """A cover as a folder in the private directory, with empty mount points for what is bound."""

    def __init__(self, image: str, cover: Cover, place: str) -> None:
        self.image = image  # whose entries are brought back; empty for the host's
        self.cover = cover
        self.place = place  # relative to the private directory

    def inside(self, path: str) -> str:
        return os.path.join(self.place, os.path.relpath(path, self.cover.parent))

    def folders(self) -> list[str]:
        paths = (*self.cover.folders, *self.cover.new_folders)
        return [self.place, *(self.inside(path) for path in paths)]

    def files(self) -> list[File]:
        return [File(self.inside(path), b"") for path in (*self.cover.files, *self.cover.new_files)]

    def links(self) -> list[tuple[str, str]]:
        return [(self.inside(path), text) for path, text in self.cover.links]

    def binds(self, private: str) -> list[Mount]:
        """The mounts that make it what the container sees, itself first unless it is the root."""
        own = sorted((*self.cover.folders, *self.cover.files))
        itself = [Mount(os.path.join(private, self.place), self.cover.parent)]
        inner = [Mount(self.image + path, path, readonly=bool(self.image)) for path in own]
        return inner if self.cover.parent == "/" else itself + inner


def ids_of(container: Container, name: str, needs_root: bool) -> dict[str, int]:
    """Who the command is, as it sees it: whom the bundle names, else the user himself where the runtime
    can. Raises ImageRefused for one that wants root, since only one user can be there."""
    user = container.image.config["process"].get("user", {})
    himself = (0, 0) if needs_root else (container.request.uid, os.getegid())
    ids = {"uid": user.get("uid", himself[0]), "gid": user.get("gid", himself[1])}
    if needs_root and ids != {"uid": 0, "gid": 0}:
        raise problems.ImageRefused(
            f"`{name}` can only be root in a user namespace of one user, and process.user of"
            f" `{container.image.name}` is {ids['uid']}:{ids['gid']}",
            "crun can be any: SLURM_OCI_RUNTIME=crun",
        )
    return ids


def config_for(
    container: Container,
    ids: dict[str, int],
    root: str,
    workdir: str,
    size: "os.terminal_size | None",
    mounts: tuple[Mount, ...],
) -> bytes:
    """The task's config.json."""
    given = container.image.config
    process = dict(given["process"])
    for dropped in ("rlimits", "apparmorProfile", "selinuxLabel", "oomScoreAdj", "consoleSize"):
        process.pop(dropped, None)
    env = {"PATH": STANDARD_PATH, **container.image.env, **container.env}
    umask = os.umask(0o077)  # which cannot be read without being set
    os.umask(umask)
    umask = process.get("user", {}).get("umask", umask)
    process |= {
        "args": list(container.command),
        "env": [f"{name}={value}" for name, value in env.items()],
        "cwd": workdir,
        "terminal": size is not None,
        "user": {**ids, "umask": umask},
    }
    if size:
        process["consoleSize"] = {"height": size.lines, "width": size.columns}
    config = {key: value for key, value in given.items() if key not in ("linux", "mounts", "hostname")}
    config |= {
        "process": process,
        "root": {"path": root, "readonly": container.settings.writable == "no"},
        "mounts": [*kept_mounts(container), *(bind(mount) for mount in mounts)],
        "linux": {
            "namespaces": [{"type": "user"}, {"type": "mount"}],
            "uidMappings": [mapping(ids["uid"], container.request.uid)],
            "gidMappings": [mapping(ids["gid"], os.getegid())],
        },
    }
    return os.fsencode(plainjson.dumps(config))


def mapping(inside: int, outside: int) -> dict[str, int]:
    return {"containerID": inside, "hostID": outside, "size": 1}


def kept_mounts(container: Container) -> "list[dict[str, Any]]":
    """The bundle's own mounts of file systems, less the kernel's, which are the host's here. Its
    bind mounts are among the container's."""
    return [
        mount
        for mount in container.image.config.get("mounts", [])
        if not is_bind(mount) and not any(is_below(mount["destination"], folder) for folder in HOST)
    ]


def bind(mount: Mount) -> "dict[str, Any]":
    options = ["rbind", "rprivate", *(read_only(mount.source) if mount.readonly else ())]
    return {"destination": mount.target, "type": "bind", "source": mount.source, "options": options}


def read_only(source: str) -> list[str]:
    """`ro`, and what of its file system is locked: the kernel makes no mount read-only from which these
    would be gone (mount_namespaces(7)), and runc 1.1 does not repeat them by itself."""
    try:
        flags = os.statvfs(source).f_flag
    except OSError:  # which the runtime says better, where it matters
        flags = 0
    return ["ro", *(option for flag, option in LOCKED.items() if flags & flag)]
