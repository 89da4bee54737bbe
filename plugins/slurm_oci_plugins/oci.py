"""What runc and crun have in common: a bundle of the task's own, from which they run.

The user's config.json is only read. The copy lies in the task's private directory, with what a job
needs: the command, the job's variables and mounts, no namespaces but user and mount, no limits or
control groups but Slurm's. Source of the fields: the OCI Runtime Specification, config.md.
"""

import os

from slurm_oci import Container, File, Mount, Plan
from slurm_oci.container import is_below, placed, require_utf8, workdir_in
from slurm_oci.job import STANDARD_PATH
from slurm_oci.rootfs import covers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "task"  # of the container: each has a state directory to itself
# Places where the host's own is bound: a new procfs or sysfs needs namespaces that a job has not.
HOST = ("/dev", "/proc", "/sys")


def plan_for(container: Container, name: str, options: tuple[str, ...]) -> Plan:
    """The plan of a runtime with runc's command line; `options` go before its command."""
    require_utf8(name, container)
    root, private = container.image.root, container.private
    host = tuple(Mount(path, path, wish=False) for path in HOST)
    container = container.replace(mounts=tuple(sorted([*container.mounts, *host], key=target)))
    mounts, lacking = placed(container)
    workdir, notes = workdir_in(container)
    folders, links, files, binds = ["bundle", "state"], [], [], []
    for number, cover in enumerate(covers(root, lacking)):
        top = f"bundle/cover{number}"
        folders.append(top)

        def inside(path: str, top: str = top, parent: str = cover.parent) -> str:
            return os.path.join(top, os.path.relpath(path, parent))

        folders += [inside(path) for path in (*cover.folders, *cover.new_folders)]
        files += [File(inside(path), b"", 0o600) for path in (*cover.files, *cover.new_files)]
        links += [(inside(path), text) for path, text in cover.links]
        if cover.parent == "/":
            root = os.path.join(private, top)
        else:
            binds.append(Mount(os.path.join(private, top), cover.parent))
        own = sorted((*cover.folders, *cover.files))
        binds += [Mount(container.image.root + path, path, readonly=True) for path in own]
    config = config_for(container, root, workdir, (*binds, *mounts))
    files.append(File("bundle/config.json", config, 0o600))
    executable = container.executables[name]
    state = ("--root", os.path.join(private, "state"))
    bundle = ("--bundle", os.path.join(private, "bundle"))
    env = {"PATH": STANDARD_PATH, "HOME": container.job.home, "XDG_RUNTIME_DIR": private, **container.own}
    return Plan(
        argv=(executable, *options, *state, "run", *preserved(container), *bundle, NAME),
        env=env,
        folders=tuple(folders),
        links=tuple(links),
        files=tuple(files),
        cleanup=((executable, *options, *state, "delete", "--force", NAME),),
        notes=notes,
    )


def target(mount: Mount) -> str:
    return mount.target


def preserved(container: Container) -> tuple[str, ...]:
    """PMI2 speaks over a descriptor that the task inherits."""
    number = container.job.env.get("PMI_FD", "")
    return ("--preserve-fds", str(int(number) - 2)) if number.isdecimal() and int(number) > 2 else ()


def config_for(container: Container, root: str, workdir: str, mounts: tuple[Mount, ...]) -> bytes:
    """The task's config.json."""
    import json  # here and not above: `list` and `show` need none of it

    given = container.image.config
    process = dict(given["process"])
    for dropped in ("rlimits", "apparmorProfile", "selinuxLabel", "oomScoreAdj", "consoleSize"):
        process.pop(dropped, None)
    env = {"PATH": STANDARD_PATH, **container.image.env, **container.env}
    user = process.get("user", {})
    ids = {"uid": user.get("uid", 0), "gid": user.get("gid", 0)}
    process |= {
        "args": list(container.command),
        "env": [f"{name}={value}" for name, value in env.items()],
        "cwd": workdir,
        "terminal": os.isatty(0) and os.isatty(1),
        "user": ids,
    }
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
    return os.fsencode(json.dumps(config, ensure_ascii=False, indent=1))


def mapping(inside: int, outside: int) -> dict[str, int]:
    return {"containerID": inside, "hostID": outside, "size": 1}


def kept_mounts(container: Container) -> "list[dict[str, Any]]":
    """The bundle's own mounts, less those of kernel file systems, which are the host's here."""
    kept = []
    for mount in container.image.config.get("mounts", []):
        place = mount.get("destination", "")
        if any(is_below(place, folder) for folder in HOST):
            continue
        source = mount.get("source", "")
        if mount.get("type") == "bind" or {"bind", "rbind"} & set(mount.get("options", [])):
            mount = {**mount, "source": os.path.join(container.image.path, source)}
        kept.append(mount)
    return kept


def bind(mount: Mount) -> "dict[str, Any]":
    options = ["rbind", "rprivate", *(["ro"] if mount.readonly else [])]
    return {"destination": mount.target, "type": "bind", "source": mount.source, "options": options}
