"""Putting the program where Slurm's oci.conf names it, and taking it away again.

An installation is a plain copy, which needs nothing on the node but a Python: `run` and what lies
beside it, and the code with its libraries in `lib`, a link to the newest copy. The link is changed
last and at once, so that a task sees the old installation or the new one.
"""

import compileall
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata

import slurm_oci
from slurm_oci import cache, compiled, hookspecs, modules, ociconf, site
from slurm_oci.plugins import Gathered
from slurm_oci.problems import Problem
from slurm_oci.templates import free_name

PROGRAMS = {
    "run": "run",
    "slurm-oci-run-default": "slurm-oci-run-default",
    "epilog": "epilog",
    "slurm-oci-plugins": "bin/slurm-oci-plugins",
}
DEFAULT = "/opt/slurm-oci"
TMPFILES = "/etc/tmpfiles.d"


class InstallFailed(Problem):
    """The program cannot be installed as asked."""

    area = "site"


def install(prefix: str, python: str, data: str, templates: str) -> tuple[Gathered, list[str]]:
    """Installs into `prefix`, to be run by `python`; what its plugins say, and notes for the admin.

    `data` and `templates` are the folders with the files that go in. Nothing of the admin's is
    changed: site.toml, plugins.d, an edited oci.conf. Raises InstallFailed, SiteInvalid.
    """
    check_python(python)
    notes = [f"{message}: {cure}" for message, cure in shut(python, prefix)]
    if not os.path.isfile(os.path.join(data, "run")):
        raise InstallFailed(
            f"this copy, in `{os.path.dirname(os.path.dirname(slurm_oci.__file__))}`, is an installation, and"
            " cannot make one",
            "call what has made it: the virtual environment's command or the package's in /usr/lib/slurm-oci",
        )
    os.umask(0o022)  # root's own may be stricter, and all users read what is written here
    if is_source(prefix):
        raise InstallFailed(
            f"`{prefix}` holds what `install` copies from",
            "leave --prefix out, or name another directory: --prefix DIR",
        )
    try:
        config = ociconf.multi(prefix)
    except ociconf.OciConfUnavailable as problem:
        raise InstallFailed(problem.message, *problem.hints) from None
    if os.path.lexists(prefix) and not os.path.isdir(prefix):
        raise InstallFailed(f"`{prefix}` is no directory", "name one, or a place for it: --prefix DIR")
    settings = site.read(os.path.join(prefix, site.NAME))  # what tasks would refuse is refused before
    try:
        os.makedirs(os.path.join(prefix, "bin"), exist_ok=True)
        os.makedirs(os.path.join(prefix, "plugins.d"), exist_ok=True)
        library = copy_library(prefix)
        old = os.readlink(os.path.join(prefix, "lib")) if os.path.islink(os.path.join(prefix, "lib")) else ""
        notes += [] if old else kept(prefix)  # first: with the link there it is an installation
        switch(prefix, library)
        for source, target in PROGRAMS.items():
            with open(os.path.join(data, source), encoding="utf-8") as file:
                text = file.read()
            text = text.replace("#!/usr/bin/python3 ", f"#!{python} ", 1).replace(DEFAULT, prefix)
            put(os.path.join(prefix, target), text, 0o755)
        put(
            os.path.join(prefix, "plugins.d", "README"),
            read(os.path.join(data, "plugins.d", "README")),
            0o644,
        )
        if os.path.isdir(templates):
            shutil.copytree(templates, os.path.join(prefix, "user_templates"), dirs_exist_ok=True)
        notes += put_config(os.path.join(prefix, "oci.conf"), config)
        if old:
            remove_older_than(prefix, old)
        notes += bases(prefix, settings)
    except OSError as error:
        raise InstallFailed(
            f"cannot write `{error.filename or prefix}`: {error.strerror}",
            "run it as the owner of that directory, or name another one: --prefix DIR",
        ) from None
    return compiled_by(python, prefix), notes


def is_source(prefix: str) -> bool:
    """Whether `prefix` holds what `install` copies from, which stands for an installation where there is
    none at /opt/slurm-oci and no other was named."""
    program, library = (os.path.join(prefix, name) for name in ("slurm-oci-plugins", "lib"))
    return os.path.isfile(program) and not os.path.lexists(library)


def nowhere() -> InstallFailed:
    """For a command that needs an installation, where only what `install` copies from is at hand."""
    return InstallFailed(
        f"there is no installation at {DEFAULT}, and no other was named",
        "make it: `slurm-oci-plugins install`; or name another: `slurm-oci-plugins --prefix DIR …`",
    )


def check_python(python: str) -> None:
    """Raises InstallFailed where `python` is no Python that can run the program."""
    if not os.path.isabs(python):
        raise InstallFailed(f"`{python}` is no absolute path", "Slurm's tasks have no PATH to look it up in")
    if re.search(r"\s", python) or len(python) > 100:
        raise InstallFailed(
            f"`{python}` cannot stand in the first line of a script",
            "name one without white space and of at most 100 characters: --python PATH",
        )
    asked = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-ISc", asked], capture_output=True, text=True, check=True)
        version = tuple(int(part) for part in done.stdout.split("."))
    except (OSError, subprocess.CalledProcessError, ValueError):
        raise InstallFailed(
            f"`{python}` does not run as a Python interpreter", "name another one: --python /usr/bin/python3"
        ) from None
    if version < (3, 11):
        raise InstallFailed(
            f"`{python}` is Python {done.stdout.strip()}; the program needs 3.11 or newer",
            "name another one: --python /usr/bin/python3.12",
        )


def shut(python: str, prefix: str) -> Iterator[tuple[str, str]]:
    """What keeps users from starting the programs in `prefix`, which `python` runs, and what to do."""
    ways = (
        (python, "`slurm-oci-plugins install --python /usr/bin/python3`"),
        (prefix, "a --prefix that all users can enter"),
    )
    for path, cure in ways:
        folder = closed(path)
        if folder:
            yield f"users cannot enter `{folder}`, where `{path}` is", cure


def closed(path: str) -> str:
    """The first directory on the way to `path`, by its links and by where they lead, that is not open to
    all; empty where there is none."""
    for place in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):
        parts = place.split("/")[1:-1]
        for count in range(len(parts) + 1):
            folder = "/" + "/".join(parts[:count])
            try:
                if not os.stat(folder).st_mode & stat.S_IXOTH:
                    return folder
            except OSError:
                break  # not there yet, or behind what has been returned
    return ""


def interpreter(prefix: str) -> str:
    """What the first line of the installation's programs names. Raises OSError, UnicodeDecodeError."""
    with open(os.path.join(prefix, "run"), encoding="utf-8") as file:
        return file.readline().removeprefix("#!").partition(" ")[0].strip()


def python_of(prefix: str) -> str:
    """The interpreter of the installation at `prefix`; empty where there is none or it has gone."""
    try:
        python = interpreter(prefix)
        check_python(python)
    except (OSError, UnicodeDecodeError, InstallFailed):
        return ""
    return python


def default_python() -> str:
    """The interpreter for the nodes: this one, or what its virtual environment was made from."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


def copy_library(prefix: str) -> str:
    """Copies the program and everything it imports; the new folder's name in `prefix`."""
    folder = tempfile.mkdtemp(dir=prefix, prefix=f"lib-{slurm_oci.__version__}-")
    try:
        for source, target in library_files():
            place = os.path.join(folder, target)
            os.makedirs(os.path.dirname(place), exist_ok=True)
            shutil.copyfile(source, place)
        for parent, folders, files in os.walk(folder):
            for name in (".", *folders):
                os.chmod(os.path.join(parent, name), 0o755)
            for name in files:
                os.chmod(os.path.join(parent, name), 0o644)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return os.path.basename(folder)


def library_files() -> Iterator[tuple[str, str]]:
    """Each file to copy, and its place in the library."""
    for distribution in needed():
        files = [file for file in distribution.files or [] if ".." not in file.parts]
        for file in files:
            path = str(file)
            if not path.endswith((".pyc", ".pth")) and "__pycache__" not in path:
                yield str(distribution.locate_file(file)), path
        if distribution.name == "slurm-oci" and not any(file.match("slurm_oci/*.py") for file in files):
            yield from checkout_files()  # an editable installation: its files are elsewhere


def checkout_files() -> Iterator[tuple[str, str]]:
    for package in ("slurm_oci", "slurm_oci_plugins"):
        module = __import__(package)
        top = os.path.dirname(os.path.abspath(module.__file__ or ""))
        for parent, _, names in os.walk(top):
            for name in names:
                if name.endswith(".py"):
                    path = os.path.join(parent, name)
                    yield path, os.path.join(package, os.path.relpath(path, top))


def needed() -> list[metadata.Distribution]:
    """The program's own distribution, those of other plugins, and what they depend on."""
    points = metadata.entry_points(group=hookspecs.GROUP)
    names = ["slurm-oci", *(point.dist.name for point in points if point.dist)]
    found: dict[str, metadata.Distribution] = {}
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another platform or an extra: what is needed is there, or we would not run
        found[name] = distribution
        for requirement in distribution.requires or []:
            if "extra ==" not in requirement:
                names.append(re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0])
    return list(found.values())


def kept(prefix: str) -> Iterator[str]:
    """Keeps a copy of what no installation has made, as of the Containers Guide's scripts; notes on it."""
    for target in PROGRAMS.values():
        path = os.path.join(prefix, target)
        if os.path.lexists(path):
            copy = f"{path}.old"
            copy = free_name(copy) if os.path.lexists(copy) else copy  # which may be the only one there is
            shutil.copy2(path, copy, follow_symlinks=False)
            yield f"`{path}` was there already: a copy of it is `{copy}`"


def switch(prefix: str, library: str) -> None:
    """Makes PREFIX/lib point to `library`, at once."""
    link = os.path.join(prefix, f".lib-{os.getpid()}")
    os.symlink(library, link)
    os.replace(link, os.path.join(prefix, "lib"))


def remove_older_than(prefix: str, library: str) -> None:
    """Removes the libraries of `prefix` from before `library`, which tasks that have begun may still
    read from."""
    try:
        limit = os.stat(os.path.join(prefix, library)).st_mtime
    except FileNotFoundError:
        return  # the link led nowhere
    for name in os.listdir(prefix):
        path = os.path.join(prefix, name)
        if name.startswith("lib-") and os.stat(path).st_mtime < limit:
            shutil.rmtree(path, ignore_errors=True)


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def put(path: str, text: str, mode: int) -> None:
    compiled.replace(path, text.encode())
    os.chmod(path, mode)


def put_config(path: str, text: str) -> list[str]:
    """Writes oci.conf, beside one that was edited, or is of an older version, if there is one."""
    if os.path.exists(path) and read(path) != text:
        put(path + ".new", text, 0o644)
        return [f"`{path}` is not this version's and is left alone: that is `{path}.new`"]
    put(path, text, 0o644)
    return []


def tmpfiles(prefix: str) -> str:
    """The file by which tmpfiles.d(5) makes the installation's places at each boot."""
    name = "slurm-oci" if prefix == DEFAULT else "slurm-oci" + prefix.rstrip("/").replace("/", "-")
    return f"{TMPFILES}/{name}.conf"


def bases(prefix: str, settings: site.Site) -> list[str]:
    """The places for users' state roots and unpacked images on this node, as root; a note where that
    cannot be done."""
    places = (settings.state, settings.images.cache or cache.BASE)
    if os.geteuid() != 0:
        how = "or the lines in docs/install.md for tmpfiles.d"
        return [f"as root, on each node: mkdir -m 1777 {' '.join(places)} ({how})"]
    if os.path.isdir(TMPFILES):
        put(tmpfiles(prefix), "".join(f"d {place} 1777 root root -\n" for place in places), 0o644)
    for place in places:
        os.makedirs(place, exist_ok=True)
        os.chmod(place, 0o1777)
    return []


def compiled_by(python: str, prefix: str) -> Gathered:
    """Compiles the library's modules and the catalog with the Python that will read them."""
    if os.path.realpath(python) == os.path.realpath(sys.executable):
        compileall.compile_dir(os.path.realpath(os.path.join(prefix, "lib")), quiet=2)
    else:
        library = os.path.realpath(os.path.join(prefix, "lib"))
        subprocess.run([python, "-ISm", "compileall", "-qq", library], check=False, stdout=subprocess.DEVNULL)
    done = subprocess.run(
        [os.path.join(prefix, "bin", "slurm-oci-plugins"), "--prefix", prefix, "compile"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise InstallFailed("the catalog cannot be compiled", *done.stderr.splitlines())
    from slurm_oci.plugins import gather

    return gather(prefix)


def uninstall(prefix: str) -> list[str]:
    """Removes what `install` put into `prefix`; what is left because it is the admin's."""
    if not os.path.islink(os.path.join(prefix, "lib")):
        raise InstallFailed(f"`{prefix}` holds no installation of slurm-oci", "`--prefix DIR` names it")
    try:
        for target in PROGRAMS.values():
            remove(os.path.join(prefix, target))
        for name in os.listdir(prefix):
            path = os.path.join(prefix, name)
            if name.startswith("lib-") or name == "user_templates":
                shutil.rmtree(path)
            elif (
                name.startswith("catalog.")
                or name in ("lib", "oci.conf.new")
                or (name == "oci.conf" and read(path) == ociconf.MULTI.replace("PREFIX", prefix))
            ):
                remove(path)
        remove(os.path.join(prefix, "plugins.d", "README"))
        for folder in ("bin", "plugins.d", ""):
            path = os.path.join(prefix, folder)
            if os.path.isdir(path) and not os.listdir(path):
                os.rmdir(path)
        if os.geteuid() == 0:
            remove(tmpfiles(prefix))
    except OSError as error:
        raise InstallFailed(
            f"cannot remove `{error.filename}`: {error.strerror}", "run it as the owner of that directory"
        ) from None
    return sorted(os.listdir(prefix)) if os.path.isdir(prefix) else []


def is_called_by(config: str, prefix: str) -> bool:
    """Whether the oci.conf `config` names the entry point in `prefix`."""
    try:
        text = modules.content(config)
    except OSError:
        return False
    return re.search(rb"[\s\"'=]" + re.escape(os.fsencode(prefix)) + rb"/run\s", text) is not None


def remove(path: str) -> None:
    if os.path.lexists(path):
        os.unlink(path)
