"""Running an importer: its programs one after the other, in a directory of their own.

What they print goes into a file there, and where the user has a terminal to that as well; of a
failure he is told the last lines.
"""

import _signal as signals
import json
import os

from slurm_oci import supervise
from slurm_oci.bundle import ENTRYPOINT
from slurm_oci.image import tag
from slurm_oci.importers import LAYOUT, RESULT, SOURCE, TAG, Importer
from slurm_oci.job import STANDARD_PATH
from slurm_oci.problems import ImageBroken, ImportFailed, Problem
from slurm_oci.values import TYPE_CHECKING, Image, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

LOG = "log"
LINES = 5  # of the programs' last words, in an error
# Of the job's variables those by which the programs find registries, credentials and proxies.
TOLD = (
    *("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "CONTAINERS_", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_"),
    *("APPTAINER_", "SINGULARITY_", "ENROOT_"),
)


class Interrupted(Exception):
    """A signal has asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Ending:
    """Makes of a signal that asks for the end an Interrupted, while it `raises`; else it is kept in
    `number`, so that what has to be done in any case is done."""

    def __init__(self) -> None:
        self.number = 0
        self.raises = False
        self.before = {
            number: signals.signal(number, self.got)
            for number in supervise.ENDING
            if signals.getsignal(number) is not signals.SIG_IGN
        }

    def got(self, number: int, _: object) -> None:
        self.number = self.number or number
        self.check()

    def check(self) -> None:
        if self.raises and self.number:
            self.raises = False
            raise Interrupted(self.number)

    def restore(self) -> None:
        for number, handler in self.before.items():
            signals.signal(number, handler)


def made(
    importer: Importer,
    image: Image,
    work: str,
    programs: "Mapping[str, str]",
    job: Job,
    tick: "Callable[[], None]" = lambda: None,
) -> str:
    """Has `importer` make its kind of `image` in the empty directory `work`: the result's path.

    `programs`: its executables by name. `tick` is called every second, also while a program is at
    work. Raises ImageBroken, ImportFailed, and Interrupted once the program that got the signal has
    ended. What is in `work` then is the caller's to remove.
    """
    prepare(importer, image, work)
    runs = Runs(work, job, tick)
    for argv in importer.commands(image, programs):
        status = runs.status(argv)
        if status:
            raise failed(image, argv, status, runs.log)
    return os.path.join(work, RESULT)


def failed(image: Image, argv: tuple[str, ...], status: int, log: str) -> Problem:
    what = f"{os.path.basename(argv[0])} ended with {status}"
    return ImportFailed(f"`{image.name}` cannot be unpacked: {what}", *last_lines(log))


class Runs:
    """Programs that are run in `work`, one after the other; see `made`."""

    def __init__(self, work: str, job: Job, tick: "Callable[[], None]") -> None:
        self.work = work
        self.env = environment(work, job)
        self.tick = tick
        self.log = os.path.join(work, LOG)
        self.shown = 0  # of the log, where the user has a terminal
        self.is_terminal = os.isatty(2)

    def status(self, argv: tuple[str, ...], output: str = "") -> int:
        """Runs one to its end; its exit status. What it prints goes to `output`, or the log. Raises
        Interrupted."""
        got: list[int] = []
        before = signals.pthread_sigmask(signals.SIG_BLOCK, supervise.ALL)
        handler = signals.signal(signals.SIGCHLD, signals.SIG_DFL)  # ignored, it would never tell of an end
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(output or self.log, flags, 0o600)
        try:
            status = supervise.run(argv, self.env, self.work, got, descriptor, self.every_second)
            self.show()
        finally:
            os.close(descriptor)
            signals.signal(signals.SIGCHLD, handler)
            signals.pthread_sigmask(signals.SIG_SETMASK, before)
        for number in got:
            if number in supervise.ENDING:
                raise Interrupted(number)
        return status

    def output(self, image: Image, argv: tuple[str, ...]) -> bytes:
        """What one prints about `image`. Raises ImportFailed, Interrupted."""
        path = os.path.join(self.work, "output")
        status = self.status(argv, path)
        if status:
            raise failed(image, argv, status, path)
        with open(path, "rb") as file:
            return file.read()

    def every_second(self) -> None:
        self.show()
        self.tick()

    def show(self) -> None:
        """Prints what is new in the log, where the user has a terminal."""
        if self.is_terminal and os.path.exists(self.log):
            with open(self.log, "rb") as file:
                file.seek(self.shown)
                text = file.read()
            self.shown += len(text)
            os.write(2, text)


def prepare(importer: Importer, image: Image, work: str) -> None:
    """Gives the image a name in `work` without odd signs. Raises ImageBroken."""
    if image.kind == "oci-layout":
        view(image, os.path.join(work, LAYOUT))
    elif image.path:
        os.symlink(image.path, os.path.join(work, SOURCE))
    if importer.gives == "oci-bundle":
        os.mkdir(os.path.join(work, RESULT))


def view(image: Image, place: str) -> None:
    """Makes at `place` an OCI layout with the image's blobs and no other image in its index: umoci
    can name no image without a tag, and none of several for different machines."""
    os.mkdir(place)
    os.symlink(os.path.join(image.path, "blobs"), os.path.join(place, "blobs"))
    manifest = {**manifest_of(image.path, tag(image)), "annotations": {REF_NAME: TAG}}
    for name, content in (
        ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
        ("index.json", {"schemaVersion": 2, "manifests": [manifest]}),
    ):
        with open(os.path.join(place, name), "w") as file:
            json.dump(content, file)


REF_NAME = "org.opencontainers.image.ref.name"  # the OCI Image Specification, annotations.md
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
DAMAGED = "the layout is damaged: make it again with `skopeo copy … oci:DIR`"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386"}  # the others are called alike


def manifest_of(layout: str, wanted: str) -> "dict[str, Any]":
    """The descriptor of the image that is meant: by its tag, the only one, or `latest`; of an image
    for several machines this machine's. Raises ImageBroken."""
    listed = manifests_in(os.path.join(layout, "index.json"))
    named = [one for one in listed if one.get("annotations", {}).get(REF_NAME) == (wanted or "latest")]
    found = named or ([] if wanted or len(listed) != 1 else listed)
    if wanted.startswith("@") and wanted[1:].isdecimal():  # containers-transports(5)
        found = listed[int(wanted[1:]) :]
    if not found:
        tags = sorted(one.get("annotations", {}).get(REF_NAME, "without a tag") for one in listed)
        which = f"no image `{wanted}`" if wanted else f"{len(listed)} images and none is called `latest`"
        raise ImageBroken(
            f"the OCI layout `{layout}` has {which}",
            f"name one of them, as in `oci:{layout}:TAG`; it has: {', '.join(tags) or 'none'}",
        )
    chosen: dict[str, Any] = found[0]
    for _ in range(3):  # an index in an index in an index
        place = blob(layout, chosen)  # also of a manifest, whose digest is a name in the cache
        if chosen.get("mediaType") not in INDEXES:
            return chosen
        chosen = of_this_machine(manifests_in(place), layout)
    return chosen


def manifests_in(path: str) -> "list[dict[str, Any]]":
    """What the index in the file lists. Raises ImageBroken."""
    listed = read_json(path).get("manifests", [])
    keys = ("annotations", "platform")
    if not isinstance(listed, list) or not all(
        isinstance(one, dict)
        and all(isinstance(one.get(key, {}), dict) for key in keys)
        and isinstance(one.get("annotations", {}).get(REF_NAME, ""), str)
        for one in listed
    ):
        raise ImageBroken(f"`{path}` has no list of images", DAMAGED)
    return listed


def of_this_machine(listed: "list[dict[str, Any]]", layout: str) -> "dict[str, Any]":
    machine = os.uname().machine
    wanted = {"os": "linux", "architecture": MACHINES.get(machine, machine)}
    for one in listed:
        platform = one.get("platform", {})
        if all(platform.get(key) == value for key, value in wanted.items()):
            return one
    raise ImageBroken(
        f"the OCI layout `{layout}` has no image for {wanted['architecture']} in its index",
        "fetch the image once more for this kind of machine: `skopeo copy --override-arch`",
    )


def blob(layout: str, descriptor: "Mapping[str, Any]") -> str:
    kind, _, digest = str(descriptor.get("digest")).partition(":")
    if not kind.isalnum() or not digest.isalnum():
        raise ImageBroken(
            f"the OCI layout `{layout}` names a blob by `{descriptor.get('digest')}`",
            "the layout is damaged, or no OCI layout: make it again with `skopeo copy … oci:DIR`",
        )
    return os.path.join(layout, "blobs", kind, digest)


def read_json(path: str) -> "dict[str, Any]":
    """The JSON object in the file. Raises ImageBroken."""
    try:
        with open(path, "rb") as file:
            found = json.load(file)
    except OSError as error:
        raise ImageBroken(
            f"cannot read `{path}`: {error.strerror}",
            "the layout is damaged, or not yours to read: `ls -lR` shows it",
        ) from None
    except (ValueError, RecursionError) as error:
        raise ImageBroken(
            f"`{path}` is not valid JSON: {error}",
            DAMAGED,
        ) from None
    if not isinstance(found, dict):
        raise ImageBroken(
            f"`{path}` is not a JSON object",
            DAMAGED,
        )
    return found


def environment(work: str, job: Job) -> dict[str, str]:
    """The programs' variables. What they write beside the result is in `work` too."""
    kept = {name: value for name, value in job.env.items() if name.startswith(TOLD)}
    own = {f"ENROOT_{name}_PATH": work for name in ("CACHE", "DATA", "RUNTIME", "TEMP")}
    return {"PATH": STANDARD_PATH, "HOME": job.home, "USER": job.user, "TMPDIR": work, **own, **kept}


def last_lines(path: str) -> list[str]:
    """The end of what the programs have said."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - (1 << 14)))
        text = file.read()
    lines = [line.strip() for line in text.decode(errors="replace").splitlines()]
    return [line for line in lines if line][-LINES:] or ["it said no word about it"]


def plain_config(work: str) -> None:
    """Reduces the config.json of the bundle in `work` to what the image says: umoci adds mounts,
    variables and a user of its own. Without a user in it, everybody is himself in the container."""
    path = os.path.join(work, RESULT, "config.json")
    layout = os.path.join(work, LAYOUT)
    manifest = read_json(blob(layout, manifest_of(layout, TAG)))
    declared = read_json(blob(layout, manifest["config"])).get("config") or {}
    config = read_json(path)
    process = {key: value for key, value in config["process"].items() if key not in ("user", "rlimits")}
    process["env"] = declared.get("Env") or []
    kept = {key: value for key, value in config.items() if key not in ("linux", "mounts", "hostname")}
    notes = {**config.get("annotations", {}), ENTRYPOINT: str(len(declared.get("Entrypoint") or ()))}
    os.unlink(path)
    with open(path, "w") as file:
        json.dump({**kept, "annotations": notes, "process": process}, file, indent=1)


def settle(path: str) -> None:
    """Has the kernel write the file system out: a node that loses its power must not have half an
    image in its cache (syncfs(2))."""
    import ctypes

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        ctypes.CDLL(None, use_errno=True).syncfs(descriptor)
    finally:
        os.close(descriptor)
