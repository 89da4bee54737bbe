"""What the plugins and site.toml say, asked once and kept as plain data.

`slurm-oci-plugins compile` writes `catalog.json`, for people, and its compiled twin, for this
module. What they were made from is recorded in them; if any of it has changed, or the twin could
have been written by somebody else, it is not trusted and the plugins are asked again.
"""

import _imp
import marshal
import os
import sys

from slurm_oci import problems
from slurm_oci.modules import LARGEST, content, is_same
from slurm_oci.values import TYPE_CHECKING, Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from slurm_oci.values import Step

FORMAT = 6
TEXT = "catalog.json"
PARTS = ("runtimes", "candidates", "cdi")  # that are packed entry by entry
HEAD = b"slurm-oci catalog\n"  # of the twin; then FORMAT, a check sum of the rest, and the rest


class Untrusted(Exception):
    """The catalog is not to be used; the message says why."""


def twin(prefix: str) -> str:
    """The compiled catalog's path; what marshal writes differs between versions of Python."""
    return os.path.join(prefix, f"catalog.{sys.implementation.cache_tag}")


def read(
    prefix: str, trace: "list[Step] | None" = None, warn: "Callable[[str], None] | None" = None
) -> "dict[str, Any] | None":
    """The catalog of the installation, or None where it is not there or not to be trusted.

    Why not is a step of `trace`; `warn` is told where somebody else could have written it.
    """
    try:
        catalog = unpacked(content_of(twin(prefix), prefix, warn))
        for path, recorded in catalog["made_from"]:
            if not is_same(recorded, os.path.join(prefix, path)):
                raise Untrusted(f"`{path}` has changed since `slurm-oci-plugins compile`")
    except Untrusted as why:
        if trace is not None:
            trace.append(("catalog", "not used", f"{why}: the plugins are asked"))
        return None
    return catalog


def content_of(path: str, prefix: str, warn: "Callable[[str], None] | None") -> bytes:
    """What the file holds. Raises Untrusted."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # should it be a FIFO
    except OSError as error:
        raise Untrusted(f"cannot read `{path}`: {error.strerror}") from None
    try:
        found = os.fstat(descriptor)
        is_others = bool(found.st_uid) and found.st_uid != os.stat(prefix).st_uid
        if is_others or found.st_mode & 0o022:
            why = f"`{path}` could have been written by others than the installation's owner"
            if warn:
                warn(f"{why}, and is not used: `chown` it to that owner and `chmod go-w` it")
            raise Untrusted(why)
        if found.st_size > LARGEST:
            raise Untrusted(f"`{path}` is larger than {LARGEST >> 20} MiB")
        return os.read(descriptor, found.st_size)
    except OSError as error:
        raise Untrusted(f"cannot read `{path}`: {error.strerror}") from None
    finally:
        os.close(descriptor)


def packed(catalog: "Mapping[str, Any]") -> bytes:
    """The twin's content. What is of one runtime, one image kind or one file is packed by itself, so
    that a task unpacks no more than it needs, however many there are."""
    parts = {part: {name: marshal.dumps(value) for name, value in catalog[part].items()} for part in PARTS}
    body = marshal.dumps({**catalog, **parts})
    return HEAD + bytes([FORMAT]) + _imp.source_hash(FORMAT, body) + body


def unpacked(content: bytes) -> "dict[str, Any]":
    """The catalog in a twin's content. Raises Untrusted.

    With the check sum right it is what `packed` wrote, and needs no further checking.
    """
    start = len(HEAD) + 9
    if content[: len(HEAD)] != HEAD or content[len(HEAD) : start - 8] != bytes([FORMAT]):
        raise Untrusted("the catalog is of another version")
    if content[start - 8 : start] != _imp.source_hash(FORMAT, content[start:]):
        raise Untrusted("the catalog is damaged")
    catalog: dict[str, Any] = marshal.loads(content[start:])
    return {**catalog, **{part: Packed(catalog[part]) for part in PARTS}}


class Packed(dict):  # type: ignore[type-arg]
    """A dictionary whose values are unpacked when they are asked for."""

    def __getitem__(self, name: str) -> "Any":
        return marshal.loads(super().__getitem__(name))

    def get(self, name: str, default: "Any" = None) -> "Any":
        return self[name] if name in self else default  # noqa: SIM401  # dict.get gives it packed

    def values(self) -> "Iterator[Any]":  # type: ignore[override]
        return (self[name] for name in self)

    def items(self) -> "Iterator[tuple[str, Any]]":  # type: ignore[override]
        return ((name, self[name]) for name in self)


def build(prefix: str) -> "dict[str, Any]":
    """The same from the plugins themselves: slower, and the same answer. Raises SiteInvalid."""
    from slurm_oci.plugins import gather  # pluggy, attrs: not on the usual path

    return gather(prefix).catalog()


def load(name: str, catalog: "Mapping[str, Any]", prefix: str) -> Runtime:
    """The runtime `name` from its one module. Raises RuntimeMissing."""
    entry = catalog["runtimes"][name]
    if "run" in entry:
        from slurm_oci import defined

        return defined.runtime(name, entry["run"], entry["accepts"], entry["summary"])
    try:
        if "file" in entry:
            module = from_file(os.path.join(prefix, entry["file"]))
        else:
            module = from_name(entry["module"])
        found: Runtime = next(r for r in module.slurm_oci_runtimes() if r.name == name)
        return found
    except (Exception, SystemExit) as error:
        raise problems.RuntimeMissing(
            f"the plugin of `{name}` ({entry['source']}) cannot be used: {type(error).__name__}: {error}",
            "`slurm-oci-plugins list` shows the state of every plugin",
        ) from None


def from_name(name: str) -> "Any":
    __import__(name)
    return sys.modules[name]


def from_file(path: str) -> "Any":
    """The drop-in plugin at `path`, as a module of its own. Raises whatever it raises."""
    name = "slurm_oci_plugins_d." + os.path.basename(path).removesuffix(".py")
    module = type(sys)(name)
    module.__file__ = path
    code = compile(content(path), path, "exec", dont_inherit=True)
    sys.modules[name] = module
    exec(code, module.__dict__)
    return module


def probed(
    runtime: Runtime, executables: "Mapping[str, str]", catalog: "Mapping[str, Any]"
) -> "Mapping[str, Any]":
    """What the runtime's probe says about the executable on this node: from the catalog, if it
    was probed there, else asked now."""
    if runtime.probe is None:
        return {}
    path = executables[runtime.executables[0]]
    for known in catalog["probed"].get(runtime.name, ()):
        if known["path"] == path and is_same(known["signature"], path):
            found: Mapping[str, Any] = known["found"]
            return found
    return runtime.probe(path)
