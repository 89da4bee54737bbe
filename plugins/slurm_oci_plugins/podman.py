"""Podman, rootless: the user's own directories, his local images, and references.

Every task has a store of its own in its private directory, so that tasks do not meet in one, and
nothing is left. A name is looked up in the user's own store, which podman shares between tasks.
The container stays in the job's control group and network. Seen with podman 5.4 and 5.8.
"""

import os

from slurm_oci import Container, File, Mount, Plan, Runtime, SettingRefused, problems
from slurm_oci.choose import find_executable
from slurm_oci.container import has_gpus, placed, require_utf8, with_host, workdir_in
from slurm_oci.job import STANDARD_PATH
from slurm_oci_plugins import apptainer, carried

TRANSPORTS = {"oci-layout": "oci", "oci-archive": "oci-archive", "docker-archive": "docker-archive"}
INITS = "/usr/libexec/podman:/usr/local/libexec/podman:/usr/lib/podman:" + STANDARD_PATH
# Else podman takes its locks from a file in /dev/shm, of which a killed task's are never given back.
CONF = b'[engine]\nlock_type = "file"\n'
# Of the container's variables those that podman or its helpers would obey themselves.
OBEYED = (
    *("PATH", "HOME", "USER", "TMPDIR", "XDG_", "LD_", "DBUS_", "NOTIFY_SOCKET", "LISTEN_"),
    *("GODEBUG", "GOTRACEBACK", "CONTAINER", "_CONTAINERS_", "PODMAN_", "STORAGE_", "REGISTRY_"),
    *("DOCKER_", "BUILDAH_"),
)


def slurm_oci_runtimes() -> list[Runtime]:
    kinds = ("rootfs", "oci-layout", "oci-archive", "docker-archive", "name", "reference")
    return [
        Runtime(
            name="podman",
            summary="Podman: the user's own directories, images by archive, name or reference",
            accepts=kinds,
            executables=("podman",),
            plan=plan,
            carries=(
                *("mounts", "workdir", "variables", "arguments", "home=none", "entrypoint=yes"),
                *("writable=tmp", "writable=yes", "gpu=nvidia", "gpu=amd", "gpu=none"),
            ),
            private=(*kinds, "oci-bundle"),
            unpacked=("oci-bundle",),
            variables=("CONTAINERS_", "PODMAN_", "REGISTRY_", "STORAGE_"),
        )
    ]


def plan(container: Container) -> Plan:
    require_utf8("podman", container)
    refuse_image(container)
    image, private = container.image, container.private
    container = with_host(container, ())  # its own /etc/hosts would have names of its own
    if image.root:
        container = container.replace(mounts=placed(container)[0])
    mounts = carried.mounts(container, apptainer.fault_of_mount)
    workdir, notes = workdir_in(container.replace(mounts=mounts))
    options = options_for(container)
    if has_gpus(container):
        from slurm_oci_plugins import gpus  # few tasks have some

        devices, lacking = gpus.devices(container)
        options += [f"--device={name}" for name in devices]
        notes = (*notes, *lacking)
    init = find_executable("catatonit", container.configured, (INITS,))
    if init:
        options += ["--init", f"--init-path={init}"]
    else:
        what = "the command is process 1 of its container, and gets only the signals that it handles"
        notes = (*notes, f"without catatonit on the node {what}")
    for mount in (*shared_memory(mounts), *mounts):
        options += ["--mount", apptainer.mount_text(mount.source, mount.target, mount.readonly)]
    options += ["--workdir", workdir]
    told, env, lost = variables(container)
    notes += not_stored(container) if image.kind == "name" else ()
    podman = (container.executables["podman"], *store(container))
    links, words = image_words(container)
    return Plan(
        argv=(*podman, "run", *container.arguments, *options, *told, *words, *container.command),
        env=env,
        folders=("root", "run", "tmp"),
        links=links,
        files=(File("containers.conf", CONF),),
        cleanup=cleanup(podman, private),
        descriptors=container.descriptors,
        umask=0o022,
        notes=(*notes, *lost),
    )


def options_for(container: Container) -> list[str]:
    image, settings = container.image, container.settings
    umask = os.umask(0o077)  # which cannot be read without being set
    os.umask(umask)
    options = [
        *("--rm", "--quiet", "--interactive", "--cgroups=disabled", "--network=host", "--uts=host"),
        *("--no-hosts", "--security-opt=label=disable", "--userns=keep-id", "--http-proxy=false"),
        *("--sdnotify=ignore", f"--umask={umask:04o}"),
        "--pull=" + ("missing" if image.kind == "reference" else "never"),
    ]
    if os.isatty(0) and os.isatty(1):
        options += ["--tty", "--log-driver=none"]
    else:
        options += ["--log-driver=passthrough"]  # the container gets the task's own files, as they are
    if settings.writable == "no":
        options += ["--read-only", "--read-only-tmpfs=false"]
    if settings.entrypoint == "no" and not image.root:
        options += ["--entrypoint="]
    if container.descriptors:
        options += [f"--preserve-fds={container.descriptors}"]
    return options


def variables(container: Container) -> tuple[list[str], dict[str, str], tuple[str, ...]]:
    """Options for the container's variables, podman's own variables, and a note on what is left out.

    The options are names alone wherever that is possible: all users of a node can see the words of a
    command.
    """
    private, options = container.private, []
    container = container.replace(env={**equal_pids(container), **container.env})
    told, notes = carried.variables(
        container, lambda name, value: "podman takes the blank off the name" if name[0] in " \t" else ""
    )
    env = {
        "PATH": STANDARD_PATH,
        "HOME": container.job.home,
        "USER": container.job.user,
        "XDG_RUNTIME_DIR": private,
        # The user's own store for a name; else podman would leave things in his home.
        **({} if container.image.kind == "name" else {"XDG_DATA_HOME": private}),
        "CONTAINERS_CONF_OVERRIDE": os.path.join(private, "containers.conf"),
        **container.own,
    }
    for name, value in told.items():
        if name.startswith(OBEYED) or name.endswith("*"):  # the star would stand for other names
            options.append(f"--env={name}={value}")
        else:
            options.append(f"--env={name}")
            env[name] = value
    return options, env, notes


def equal_pids(container: Container) -> dict[str, str]:
    """What OpenMPI has to be told: it takes a segment of shared memory for its own where the process
    number in it is its own, and here each rank has the same (opal/mca/shmem). So not by that way."""
    is_rank = bool({"PMIX_NAMESPACE", "PMI_JOBID"} & set(container.env))
    return {"OMPI_MCA_btl": "^sm"} if is_rank else {}


def not_stored(container: Container) -> tuple[str, ...]:
    """A note where the user's own store lists no image of that name: podman itself would not say how
    one in a registry is named. (The store may be elsewhere, so that this is not for certain.)"""
    import json  # only names pay for it

    path = os.path.join(container.job.home, ".local/share/containers/storage/overlay-images/images.json")
    try:
        with open(path, "rb") as file:
            listed = [str(name) for image in json.load(file) for name in image.get("names") or ()]
    except FileNotFoundError:
        listed = []
    except (OSError, ValueError, AttributeError, TypeError):
        return ()
    name = container.image.name
    wanted = name if ":" in name or "@" in name else f"{name}:latest"
    if any(one == wanted or one.endswith(f"/{wanted}") for one in listed) or is_id(name):
        return ()
    return (
        f"`{name}` is not in your podman store (`podman images`);"
        f" in a registry it would be `docker://{name}`, as a file `./{name}`",
    )


def is_id(name: str) -> bool:
    """Whether it may be the beginning of an image's id (podman-run(1))."""
    return len(name) > 2 and set(name) <= set("0123456789abcdef")


def refuse_image(container: Container) -> None:
    """Raises ImageRefused, SettingRefused for what podman cannot do with this image."""
    image, settings = container.image, container.settings
    scheme, separator, _ = image.name.partition("://")
    if image.kind == "reference" and separator and scheme != "docker":
        raise problems.ImageRefused(
            f"`podman` cannot fetch `{image.name}`: it knows docker:// of all registries",
            "apptainer and singularity know oras:// and library:// too",
        )
    if image.root and os.stat(image.root).st_uid != container.request.uid:
        raise problems.ImageRefused(
            f"`podman` would have to write into `{image.root}`, which belongs to somebody else",
            "other runtimes need not: SLURM_OCI_RUNTIME=unshare takes any directory that you can read",
        )
    if settings.entrypoint == "yes" and image.root:
        raise SettingRefused(
            f"{settings.origins['entrypoint']} is `yes`: `{image.name}` is a directory, in which podman knows"
            " no entry point",
            "name the program that is to get the command, or take an image of another kind",
        )
    if settings.writable == "yes" and not image.root:
        raise SettingRefused(
            f"{settings.origins['writable']} is `yes`: what podman unpacks of `{image.name}` is gone"
            " after the task",
            "SLURM_OCI_WRITABLE=yes is for directories: `podman export` and `tar -x` make one",
        )


def store(container: Container) -> tuple[str, ...]:
    """Where podman keeps what it makes: in the private directory. Of the user's own store a name
    needs the images; what is noted of containers stays outside it (`--transient-store`)."""
    private = container.private
    is_stored = container.image.kind == "name"
    root = ("--transient-store",) if is_stored else ("--root", os.path.join(private, "root"))
    return (
        *root,
        *("--runroot", os.path.join(private, "run"), "--tmpdir", os.path.join(private, "tmp")),
        *("--cgroup-manager=cgroupfs", "--events-backend=none"),
    )


def cleanup(podman: tuple[str, ...], private: str) -> tuple[tuple[str, ...], ...]:
    """What podman leaves: files of the user's subordinate ids, which only his own user namespace
    can remove, and the process that holds this namespace (podman-system-migrate(1))."""
    made = [os.path.join(private, folder) for folder in ("root", "run")]
    pause = os.path.join(private, "libpod/tmp/pause.pid")
    return (
        (*podman, "unshare", "rm", "-rf", *made),
        ("/bin/sh", "-c", 'kill -9 "$(cat "$1")"', "sh", pause),
    )


def image_words(container: Container) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Links for the private directory, and the image as `podman run` is told of it.

    A colon in a path would begin a tag, or an option: such a path is told by a link's name.
    """
    image = container.image
    path = image.root or image.path
    links = (("image", path),) if ":" in path else ()
    place = os.path.join(container.private, "image") if links else path
    if image.root:
        overlay = "" if container.settings.writable == "yes" else ":O"
        return links, ("--rootfs", place + overlay)
    if image.kind not in TRANSPORTS:
        return (), (image.name,)
    transport = TRANSPORTS[image.kind]
    _, _, said = image.name.partition(f"{transport}:")
    tag = said.removeprefix("//").partition(":")[1:]  # as in oci:PATH:TAG
    return links, (f"{transport}:{place}" + "".join(tag),)


def shared_memory(mounts: tuple[Mount, ...]) -> tuple[Mount, ...]:
    """The node's own, in which ranks of a step find each other."""
    place = "/dev/shm"
    is_free = os.path.isdir(place) and all(mount.target != place for mount in mounts)
    return (Mount(place, place),) if is_free else ()
