"""Asking the plugins: the admin's side, and the dispatcher's where there is no catalog."""

import inspect
import os
from collections.abc import Iterator
from importlib import metadata
from types import ModuleType
from typing import Any, cast

import attrs
import pluggy

from slurm_oci import catalog, hookspecs, importers, site
from slurm_oci.choose import ORDER, allowed
from slurm_oci.defined import runtime as defined_runtime
from slurm_oci.image import KINDS
from slurm_oci.modules import signature
from slurm_oci.problems import nearest
from slurm_oci.values import Runtime

BUILT_IN = "slurm-oci"
LISTS = ("accepts", "executables", "carries", "private", "variables", "version", "unpacked")  # of a Runtime


class Manager(pluggy.PluginManager):
    """pluggy, except that a hook implementation is known by its name alone (as pytest's are)."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        found = super().parse_hookimpl_opts(plugin, name)
        is_ours = name.startswith(hookspecs.PREFIX) and inspect.isroutine(getattr(plugin, name, None))
        return {} if found is None and is_ours else found


@attrs.frozen
class Aside:
    """A plugin, or a runtime of one, that is not used, and why."""

    name: str
    source: str
    reason: str


@attrs.frozen
class Found:
    """A runtime and where it comes from."""

    runtime: Runtime
    source: str  # a distribution and its version, a drop-in's path, or site.toml's
    origin: dict[str, Any]  # what `catalog.load` needs to get it again


@attrs.frozen
class Gathered:
    """Everything that plugins and site.toml say."""

    prefix: str
    site: "site.Site"
    found: tuple[Found, ...]
    aside: tuple[Aside, ...]
    made_from: dict[str, tuple[int, int] | None]  # path -> its signature before it was read

    def order(self) -> list[str]:
        """The names of the runtimes in the order in which they are tried."""
        names = [found.runtime.name for found in self.found]
        known = self.site.order or ORDER
        rest = [name for name in names if name not in known]
        last = [name for name in known if name == "unshare"] if not self.site.order else []
        first = [name for name in known if name in names and name not in last]
        return [*first, *rest, *last]

    def catalog(
        self,
        probed: dict[str, Any] | None = None,
        folders: dict[str, Any] | None = None,
        cdi: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The catalog: plain data, as `catalog.read` gives it; `probed`, `folders` and `cdi` are what
        is known about this node. Paths in the installation are relative to it, so that a copy of it
        elsewhere holds."""
        by_name = {found.runtime.name: found for found in self.found}
        order = self.order()
        settings = {key: value for key, value in self.site.plain().items() if key != "runtimes"}
        return {
            "format": catalog.FORMAT,
            "made_from": [(self.inside(path), signature) for path, signature in self.made_from.items()],
            "site": settings,
            "order": order,
            "candidates": {
                kind: [*candidates(kind, [by_name[n].runtime for n in order if allowed(n, settings)])]
                for kind in KINDS
            },
            "runtimes": {name: self.entry(by_name[name]) for name in order},
            "probed": probed or {},
            "folders": folders or {},
            "cdi": cdi or {},
        }

    def entry(self, found: Found) -> dict[str, Any]:
        runtime, origin = found.runtime, found.origin
        return {
            "summary": runtime.summary,
            "source": found.source,
            "accepts": list(runtime.accepts),
            "executables": list(runtime.executables),
            "fetches": runtime.fetches,
            **({**origin, "file": self.inside(origin["file"])} if "file" in origin else origin),
        }

    def inside(self, path: str) -> str:
        return path.removeprefix(self.prefix.rstrip("/") + "/")


def candidates(kind: str, runtimes: list[Runtime]) -> Iterator[tuple[str, list[str], list[Any] | None]]:
    """For the catalog, of each runtime that can have an image of `kind`: its name, its executables,
    and None where it takes the kind itself, else the importers that make one that it takes: their
    names, executables and the kind that they give. What takes it itself but leaves it to importers
    where there are some is listed twice."""
    for runtime in runtimes:
        ways: list[Any] = [
            (one.name, list(one.executables), one.gives)
            for one in importers.TABLE
            if kind in one.takes and one.gives in (runtime.unpacked or runtime.accepts)
        ]
        is_taken = kind in runtime.accepts
        if ways and (runtime.unpacked or not is_taken):
            yield runtime.name, list(runtime.executables), ways
        if is_taken:
            yield runtime.name, list(runtime.executables), None


def gather(prefix: str) -> Gathered:
    """Asks every plugin of the installation in `prefix`. One that fails harms only itself.

    Raises SiteInvalid.
    """
    made_from = {path: signature(path) for path in sources(prefix)}
    settings = site.read(os.path.join(prefix, site.NAME))
    found: list[Found] = []
    aside: list[Aside] = []
    manager = Manager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    for name, source, origin, load in plugins(prefix):
        try:
            module = load()
            folder = os.path.dirname(os.path.realpath(module.__file__))
            made_from.setdefault(folder, signature(folder))
            runtimes = ask(manager, name, module)
        except BaseException as error:  # a plugin may even raise SystemExit
            if isinstance(error, KeyboardInterrupt):
                raise
            aside.append(Aside(name, source, reason(error)))
            continue
        for runtime in runtimes:
            fault = fault_of(runtime, found)
            if fault:
                aside.append(Aside(str(getattr(runtime, "name", name)), source, fault))
            else:
                found.append(Found(runtime, source, origin))
    for name, definition in settings.runtimes.items():
        summary = definition.summary or f"defined in {site.NAME}: {' '.join(definition.run)}"
        runtime = defined_runtime(name, definition.run, definition.accepts, summary)
        fault = fault_of(runtime, found)
        path = os.path.join(prefix, site.NAME)
        if fault:
            aside.append(Aside(name, path, fault))
        else:
            found.append(Found(runtime, path, {"run": definition.run}))
    return Gathered(prefix, settings, tuple(found), tuple(aside), made_from)


def sources(prefix: str) -> Iterator[str]:
    """The files and folders that tell, by their signatures, whether asking again could give other
    answers; the folders of the plugins' modules come on top. A distribution that comes or goes
    changes the library's own time."""
    yield from (os.path.join(prefix, name) for name in (site.NAME, "lib", "plugins.d"))
    yield from drop_ins(prefix)
    points = metadata.entry_points(group=hookspecs.GROUP)
    for distribution in {point.dist.name: point.dist for point in points if point.dist}.values():
        for file in distribution.files or ():
            if file.name == "entry_points.txt":
                yield os.path.realpath(str(distribution.locate_file(file)))


def drop_ins(prefix: str) -> list[str]:
    folder = os.path.join(prefix, "plugins.d")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in names if name.endswith(".py")]


def plugins(prefix: str) -> Iterator[tuple[str, str, dict[str, Any], Any]]:
    """Every plugin's name, source, origin and loader: built-in ones first, drop-ins last."""
    points = metadata.entry_points(group=hookspecs.GROUP)

    def rank(point: metadata.EntryPoint) -> tuple[bool, str, str]:
        distribution = point.dist.name if point.dist else ""
        return distribution != BUILT_IN, distribution, point.name

    for point in sorted(points, key=rank):
        source = f"{point.dist.name} {point.dist.version}" if point.dist else "?"
        yield point.name, source, {"module": point.module}, point.load
    for path in drop_ins(prefix):
        yield os.path.basename(path), path, {"file": path}, lambda path=path: catalog.from_file(path)


def ask(manager: Manager, name: str, module: ModuleType) -> list[Runtime]:
    """The runtimes of one plugin. Raises whatever the plugin raises, or what pluggy finds wrong."""
    if not hasattr(module, "slurm_oci_runtimes"):
        near = nearest("slurm_oci_runtimes", [name for name in dir(module) if "oci" in name])
        meant = f"; `{near}` is no hook" if near else ""
        raise ValueError(f"it does not define slurm_oci_runtimes(){meant}")
    manager.register(module, name)
    try:
        manager.check_pending()
        return [
            runtime
            for implementation in manager.hook.slurm_oci_runtimes.get_hookimpls()
            if implementation.plugin is module
            for runtime in cast("list[Runtime]", implementation.function())
        ]
    finally:
        manager.unregister(module)


def reason(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    text = str(error).strip() or "no message"
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def fault_of(runtime: Any, found: list[Found]) -> str:
    """What keeps `runtime` from being used beside those `found`; empty for nothing."""
    if not isinstance(runtime, Runtime):
        return f"slurm_oci_runtimes() gave {type(runtime).__name__}, not a Runtime"
    if not isinstance(runtime.name, str) or not runtime.name:
        return f"its name is {runtime.name!r}: expected a text"
    for field in LISTS:
        value = getattr(runtime, field)
        if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
            return f"its `{field}` is {value!r}: expected a tuple of texts"
    unknown = [kind for kind in runtime.accepts if kind not in KINDS]
    if unknown:
        near = nearest(unknown[0], list(KINDS))
        return f"there is no image kind `{unknown[0]}`" + (f"; did you mean `{near}`?" if near else "")
    if not callable(runtime.plan):
        return "its plan is no function"
    for other in found:
        if other.runtime.name == runtime.name:
            return f"the name `{runtime.name}` is taken by {other.source}"
    return ""
