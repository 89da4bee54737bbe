"""What site.toml says of runtimes, and the runtimes of the installation do not bear out.

The file is valid all the same: another node or a plugin that comes later may have what is named.
"""

import os
from collections.abc import Iterable, Iterator, Mapping

import attrs

from slurm_oci import site
from slurm_oci.choose import allowed
from slurm_oci.plugins import Gathered
from slurm_oci.positions import Place
from slurm_oci.problems import nearest

LISTS = ("order", "allow_runtimes", "refuse_runtimes")


@attrs.frozen
class Misfit:
    """One place in site.toml, what is wrong with it here and what to do about it."""

    file: str
    line: int
    message: str
    cure: str
    is_fatal: bool  # whether each task that it is for fails

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}; {self.cure}"


def in_ticks(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def misfits(gathered: Gathered) -> Iterator[Misfit]:
    """By the keys of site.toml, in the order in which `site` shows them."""
    path = os.path.join(gathered.prefix, site.NAME)
    wanted, places = gathered.site, site.positions(path)
    known = {found.runtime.name: found.runtime for found in gathered.found}

    def misfit(place: Place, message: str, cure: str, is_fatal: bool) -> Misfit:
        key = site.named(place[:-1] if isinstance(place[-1], int) else place)
        return Misfit(path, places[place], f"`{key}` {message}", cure, is_fatal)

    def stranger(place: Place, name: str, is_fatal: bool) -> Misfit:
        near = nearest(name, list(known))
        cure = f"did you mean `{near}`?" if near else f"known are {', '.join(known)}"
        return misfit(place, f"names no runtime: `{name}`", cure, is_fatal)

    for key in LISTS:
        for number, name in enumerate(getattr(wanted, key)):
            if name not in known:
                yield stranger((key, number), name, False)
    for number, text in enumerate(wanted.refuse):
        setting, _, name = text.partition("=")
        if setting == "runtime" and name and name not in known:
            yield stranger(("refuse", number), name, False)
    for name in wanted.executables:
        programs = known[name].executables if name in known else ()
        if programs and name not in programs:
            message = f"is a runtime's name, and no program's: `{name}` starts {in_ticks(programs)}"
            yield misfit(("executables", name), message, "name the program", False)
    for name in wanted.arguments:
        place: Place = ("arguments", name)
        if name not in known:
            yield stranger(("arguments",), name, False)
        elif wanted.arguments[name] and "arguments" not in known[name].carries:
            message = "has words for a runtime that takes none of a site's: its tasks are refused"
            yield misfit(place, message, "take them out", True)
    for name, made in wanted.runtimes.items():
        if "%@" not in made.run and set(made.accepts) != {"oci-bundle"}:  # whose config.json can have one
            message = "has no `%@`: the commands of tasks do not reach it"
            yield misfit(("runtimes", name, "run"), message, "add it, as a word of its own", False)
    tables: list[tuple[Place, Mapping[str, str]]] = [
        (("defaults",), wanted.defaults),
        (("forced",), wanted.forced),
        *((("rules", number), rule.settings) for number, rule in enumerate(wanted.rules)),
    ]
    for table, values in tables:
        name = values.get("runtime", "")
        if name and name not in known:
            yield stranger((*table, "runtime"), name, True)
        elif name and not allowed(name, wanted.plain()):
            message = f"names `{name}`, which this file does not allow"
            yield misfit((*table, "runtime"), message, "see `allow_runtimes` and `refuse_runtimes`", True)
