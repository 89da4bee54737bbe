"""Imports from one file: what every task imports, read at once.

Importing a module takes Python a dozen file-system calls, and a task imports sixteen. `compile`
therefore writes their code into one file beside their `.pyc` files; `run` reads it and executes
this module first. It is to these modules what a `.pyc` is to one: where the file is not there, was
made by another Python or from other sources, they are imported one by one, which takes longer.
"""

import errno
import marshal
import sys


def light_os() -> "ModuleType":
    """`os` without what costs a task most of its import: the classes behind `os.environ`.

    It holds what the kernel's calls need, and becomes the whole `os` as soon as anything is asked of
    it that it has not, so that nobody can tell the difference.
    """
    import posix

    light = type(sys)("os")
    calls = {name: value for name, value in posix.__dict__.items() if name[:2] != "__" and name != "environ"}
    light.__dict__.update(calls)
    light.__dict__.update(sep="/", devnull="/dev/null", fsdecode=fsdecode, fsencode=fsencode)

    def whole(name: str) -> "Any":
        if name == "__path__":  # Python asks for it in `from os import …`: is it a package?
            raise AttributeError(name)
        del sys.modules["os"], light.__getattr__
        light.__dict__.update(__import__("os").__dict__)
        sys.modules["os"] = light
        return getattr(light, name)

    light.__getattr__ = whole  # type: ignore[method-assign]
    sys.modules["os"] = light
    light.path = sys.modules["os.path"] = light_path(light)  # type: ignore[attr-defined]
    return light


def light_path(os: "Any") -> "ModuleType":
    """`os.path` likewise: what a task usually needs of it, as posixpath has it for texts."""

    def join(path: str, *parts: str) -> str:
        for part in parts:
            path = part if part[:1] == "/" else path + part if path[-1:] in "/" else f"{path}/{part}"
        return path

    def dirname(path: str) -> str:
        head = path[: path.rfind("/") + 1]
        return head.rstrip("/") or head

    def basename(path: str) -> str:
        return path[path.rfind("/") + 1 :]

    def exists(path: str) -> bool:
        return is_there(os.stat, path) is not None

    def lexists(path: str) -> bool:
        return is_there(os.lstat, path) is not None

    def isdir(path: str) -> bool:
        found = is_there(os.stat, path)
        return found is not None and found.st_mode & 0o170000 == 0o040000

    def is_there(ask: "Any", path: str) -> "Any":
        try:
            return ask(path)
        except (OSError, ValueError):
            return None

    light = type(sys)("posixpath")
    for function in (join, dirname, basename, exists, lexists, isdir):
        light.__dict__[function.__name__] = function

    def whole(name: str) -> "Any":
        del light.__getattr__
        light.__dict__.update(__import__("posixpath").__dict__)
        return getattr(light, name)

    light.__getattr__ = whole  # type: ignore[method-assign]
    return light


def fsdecode(name: "str | bytes") -> str:
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name


def fsencode(name: "str | bytes") -> bytes:
    return name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name


os = sys.modules.get("os") or light_os()
TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
    from typing import Any

    Signature = tuple[int, int] | None
    # What every task imports, each after what it imports itself: name, path in the library, code.
    Core = list[tuple[str, str, CodeType]]
    # What only some need: name -> (path in the library, its signature or None, where in the file its
    # code by marshal begins, counted from the end of what every task reads, and its size).
    Others = dict[str, tuple[str, Signature, int, int]]

LARGEST = 1 << 26  # bytes, of a file that a person or `compile` has written

Spec = type(sys.__spec__)  # importlib.machinery.ModuleSpec, without importing that


def install(
    library: str,
    file: int,
    start: int,
    folders: "list[tuple[str, Signature]]",
    core: "Core",
    others: "Others",
) -> None:
    """Imports `core` and makes `others` importable, whose code begins at `start` in `file`, unless one
    of the `folders` that they are from has changed."""
    if not all(is_same(recorded, os.path.join(library, folder)) for folder, recorded in folders):
        return
    finder = Finder(library, file, start, others)
    sys.meta_path.insert(0, finder)
    for name, where, code in core:
        if name not in sys.modules:
            spec = finder.spec(name, os.path.join(library, where))
            module = type(sys)(name)
            module.__spec__, module.__file__, module.__package__ = spec, spec.origin, spec.parent
            if spec.submodule_search_locations:
                module.__path__ = spec.submodule_search_locations
            sys.modules[name] = module
            exec(code, module.__dict__)
            package, _, last = name.rpartition(".")
            if package in sys.modules:
                setattr(sys.modules[package], last, module)


class Finder:
    """Finds modules in the file (a meta path finder and its loader, PEP 451).

    The file stays open, so that it is this one also where `compile` has put another in its place.
    """

    def __init__(self, library: str, file: int, start: int, modules: "Others") -> None:
        self.library = library
        self.file = file
        self.start = start
        self.modules = modules
        self.code: dict[str, CodeType] = {}  # of what is found and not executed yet

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "ModuleSpec | None":
        if name not in self.modules:
            return None
        where, recorded, offset, size = self.modules[name]
        file = os.path.join(self.library, where)
        if recorded and not is_same(recorded, file):
            return None  # its source is newer: Python's own finders take it from there
        try:
            self.code[name] = marshal.loads(os.pread(self.file, size, self.start + offset))
        except (OSError, EOFError, TypeError, ValueError):
            return None  # the file is damaged
        return self.spec(name, file)

    def spec(self, name: str, file: str) -> "ModuleSpec":
        folder, _, last = file.rpartition("/")
        spec = Spec(name, self, origin=file, is_package=last == "__init__.py")  # type: ignore[arg-type]
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations = [folder]
        return spec

    def create_module(self, spec: "ModuleSpec") -> "ModuleType | None":
        return None  # as usual

    def exec_module(self, module: "ModuleType") -> None:
        exec(self.code.pop(module.__name__), module.__dict__)


def path(library: str) -> str:
    """The file's; the code differs between versions of Python."""
    return f"{library}/slurm_oci/__pycache__/one-file.{sys.implementation.cache_tag}"


def signature(path: str) -> "tuple[int, int] | None":
    """Size and modification time (ns) of the file at `path`, None for nothing. Of a directory only
    the time: its size differs between file systems that hold the same."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size if found.st_mode & 0o170000 == 0o100000 else 0, found.st_mtime_ns


def content(path: str) -> bytes:
    """What the file of somebody's configuration holds. Raises OSError, also for what is no file and
    for one so large that it cannot be meant: a FIFO would keep us, and a device have no end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if found.st_mode & 0o170000 != 0o100000:
            raise OSError(errno.EINVAL, "it is no regular file", path)
        if found.st_size > LARGEST:
            raise OSError(errno.EFBIG, f"it is larger than {LARGEST >> 20} MiB", path)
        return b"".join(iter(lambda: os.read(descriptor, LARGEST), b""))
    finally:
        os.close(descriptor)


def is_same(recorded: "tuple[int, int] | None", path: str) -> bool:
    """Whether what is at `path` has the signature `recorded` earlier.

    A copy, or a file system as squashfs, may know only the whole seconds of the time.
    """
    found = signature(path)
    if found is None or recorded is None:
        return found is recorded
    size, time = recorded
    return found[0] == size and found[1] in (time, time // 10**9 * 10**9)
