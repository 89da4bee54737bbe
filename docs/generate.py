#!/usr/bin/env python3
"""Writes the parts of the documentation that are made from the code.

    python docs/generate.py            # after a change of a problem, an image kind or a command
    python docs/generate.py --check    # says what is out of date and changes nothing

A part stands in its page between `<!-- made from the code: NAME -->` and `<!-- end -->`, in a manual
page between the same as roff's comments.
"""

import ast
import importlib
import json
import pkgutil
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import recording
import roff

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from cells import CELLS

import slurm_oci.problems
import slurm_oci_plugins as plugins
from slurm_oci import guide, importers, lint
from slurm_oci.choose import ORDER
from slurm_oci.cli import COMMANDS, cli
from slurm_oci.image import KINDS
from slurm_oci.lint import CODES
from slurm_oci.ociconf import MODES
from slurm_oci.pattern import QUOTES_RIGHT, QUOTES_SINCE, RUN_WITHOUT_CONFIG, Version
from slurm_oci.problems import Problem
from slurm_oci.values import Runtime

PROJECT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/*.md", "man/*.[1-8]")
PART = re.compile(r"(<!-- made from the code: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
ROFF_PART = re.compile(r'(\.\\" made from the code: (\w+)\n).*?(\.\\" end\n)', re.DOTALL)
PLUGINS = "slurm_oci_plugins."
# What is said where the cures are put together when something is wrong.
LAST_LINES = "what the program said last"
CURES = {
    "…: `…` can be set in the job's environment alone": ["SLURM_OCI_…=…"],
    "…: `…` is not supported in an environment definition": ["did you mean `…`?", "known are …"],
    "…: the mount `…` has the flag `…`: not supported": ["known are ro, rw", "what to do without it"],
    "there is no image at `…`": [
        "did you mean `…`?",
        "`…` is there, and holds …",
        "an image in a registry is written `docker://…`",
        "the shell leaves `~` as it is after `=` and in quotes: write `$HOME/…`",
        "nothing replaces variables in `#SBATCH` lines and single quotes: write it in full",
    ],
    "`…` is of no known kind: it is …": [
        "an image is a directory, …",
        "name the directory it is in: `--container=…`",
    ],
    "the image `…` cannot be reached: … may not be entered by user …": [
        "`chmod o+x …` by its owner lets others pass through",
        "`chmod u+x …`: it is yours",
    ],
    "the image `…` may not be read by user …": [
        "`chmod o+r …` by its owner lets others read it",
        "`chmod u+r …`: it is yours",
    ],
    "`…` is in no kind of registry that is known here, and this site fetches nothing in jobs": [
        "did you mean `…://…`?",
        "known are …; what lies elsewhere is fetched where you log in, and named by its path",
    ],
    "no container runtime on this node takes `…`, of kind …": [
        "unpacked, as a directory or a bundle, it runs anywhere; or ask the site for a runtime that takes it",
        "every runtime, and why it was passed over",
    ],
    "no bundle can be made of `…`: …": [LAST_LINES],
    "… made no root file system of `…`": [LAST_LINES],
    "`…` cannot be unpacked: …": [LAST_LINES],
    "… has the mount `…`: there is no `…` on this node": [
        "is it misspelt, or only on the host that the job was submitted from?",
        "no blanks belong between the mounts",
        "the shell leaves `~` as it is after `=` and in quotes: write `$HOME/…`",
        "nothing replaces variables in `#SBATCH` lines and single quotes: write it in full",
    ],
    "no template is called `…`": ["did you mean `…`?", "`slurm-oci-plugins template` lists them"],
    "the catalog cannot be compiled": [LAST_LINES],
    "there is no place for the task's private directory": [
        "each place that was tried, and why it cannot be used"
    ],
}
AREAS = {
    "job": "What the job asked for",
    "image": "The image",
    "hook": "The user's own script",
    "runtime": "The container runtime",
    "site": "The site's configuration",
    "dispatcher": "Between Slurm and slurm-oci",
}


def main(words: list[str]) -> int:
    stale = [(path, new) for path, new in made() if not path.exists() or path.read_text("utf-8") != new]
    for path, new in stale:
        print(path.relative_to(PROJECT))
        if "--check" not in words:
            path.write_text(new, encoding="utf-8")
    return 1 if stale and "--check" in words else 0


def made() -> Iterator[tuple[Path, str]]:
    """Every page as it must be, and the picture."""
    for path in sorted(page for pattern in PAGES for page in PROJECT.glob(pattern)):
        text = PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n{part[3]}", path.read_text("utf-8"))
        yield path, ROFF_PART.sub(lambda part: f"{part[1]}{PARTS[part[2]]()}\n{part[3]}", text)
    page = PROJECT / "docs" / "howto-first-job.md"
    picture = recording.svg(page, "on a fresh machine", "slurm-oci-plugins explain")
    yield PROJECT / "docs" / "session.svg", picture


def commands() -> str:
    rows = [f"| `{name}` | {summary} |" for name, summary in COMMANDS.items()]
    return "\n".join(["| command | |", "|---|---|", *rows, ""])


def help_texts() -> str:
    """What `--help` prints, for the command itself and each of its commands."""
    whole = cli.make_context("slurm-oci-plugins", [], resilient_parsing=True, terminal_width=100)
    shown = [("slurm-oci-plugins", cli.get_help(whole))]
    for name in COMMANDS:
        command = cli.get_command(whole, name)
        assert command is not None
        context = command.make_context(name, [], parent=whole, resilient_parsing=True)
        shown.append((name, command.get_help(context)))
    return "\n".join(f"## {name}\n\n```text\n{text}\n```\n" for name, text in shown)


def kinds() -> str:
    rows = [f"| `{name}` | {meaning} |" for name, meaning in KINDS.items()]
    return "\n".join(["| kind | what it is |", "|---|---|", *rows, ""])


def importing() -> str:
    """What unpacks images, best first, and which of the runtimes take the result."""
    rows = []
    for one in importers.TABLE:
        takes = [kind.replace("reference", f"reference ({', '.join(one.schemes)})") for kind in one.takes]
        rows.append(f"| `{'` and `'.join(one.executables)}` | {', '.join(takes)} | {one.gives} |")
    return "\n".join(["| with | of | is made |", "|---|---|---|", *rows, ""])


def runtimes() -> str:
    """What each of them takes and carries."""
    rows = [f"| `{r.name}` | {', '.join(r.accepts)} | {', '.join(r.carries)} |" for r in known_runtimes()]
    return "\n".join(["| runtime | takes | carries |", "|---|---|---|", *rows, ""])


def known_runtimes() -> list[Runtime]:
    """The runtimes that come with the program, in the order in which they are tried."""
    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(plugins.__path__, PLUGINS)]
    hooks = [module.slurm_oci_runtimes for module in modules if hasattr(module, "slurm_oci_runtimes")]
    by_name = {runtime.name: runtime for hook in hooks for runtime in hook()}
    return [by_name[name] for name in dict.fromkeys((*ORDER, *by_name)) if name in by_name]


def errors() -> str:
    """Every class of problem by the part that is at fault, with the cures that the code gives."""
    cures = cures_in_the_code()
    unread = CURES.keys() - {message for known in cures.values() for message, hints in known if not hints}
    assert not unread, f"CURES has rows for messages that are gone, or have hints of their own: {unread}"
    lines = []
    for area, title in AREAS.items():
        lines += [f"## {title}", ""]
        for problem in sorted(problems(), key=lambda problem: problem.__name__):
            if problem.area != area:
                continue
            status = "" if problem.status == 125 else f" Exit status {problem.status}."
            lines += [f"### {problem('').code}", ""]
            lines += [" ".join((problem.__doc__ or "").split()) + status, ""]
            for message, hints in cures.get(problem.__name__, ()):
                hints = [f"    * {code(hint)}" for hint in hints or CURES.get(message, ())]
                lines += [f"* {code(message)}", *hints]
            lines += [""] if problem.__name__ in cures else []
    return "\n".join(lines)


def findings() -> str:
    """Every code of `lint`, by severity."""
    rows = [f"| `{name}` | {severity} | {meaning} |" for name, (severity, meaning) in CODES.items()]
    return "\n".join(["| code | severity | meaning |", "|---|---|---|", *rows, ""])


def examples() -> str:
    """What tests/real/test_oci_conf.py saw of each example of the Containers Guide."""
    found = json.loads((PROJECT / "docs" / "oci-conf.json").read_text(encoding="utf-8"))
    releases = [suite["slurm"] for suite in found.values()]
    heads = [
        f"{title} {release}" for release in releases for title in ("the guide's own: Slurm", "ours: Slurm")
    ]
    lines = ["| example | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for form in next(iter(found.values()))["examples"]:
        cells = []
        for suite in found.values():
            row = suite["examples"][form]
            findings = f", `lint`: {', '.join(row['lint'])}" if row["lint"] else ", `lint` finds nothing"
            cells += [row["guide"], f"{row['parser']}{findings}, {row['run']}"]
        lines.append(f"| `{form}` | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def guide_findings() -> str:
    """What `lint` finds in the examples as the guide prints them, for two releases of Slurm."""
    rows = ["| example | key | findings |", "|---|---|---|"]
    for runtime, modes in MODES.items():
        for mode in modes:
            text = guide.example(runtime, mode)
            keys = [line.partition("=")[0] for line in text.splitlines()]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "oci.conf"
                path.write_text(text, encoding="utf-8")
                new = by_line(str(path), QUOTES_RIGHT)
                old = by_line(str(path), RUN_WITHOUT_CONFIG)
            for line in sorted({*new, *old}):
                only = [
                    f"{code} (before {QUOTES_SINCE})"
                    for code in old.get(line, [])
                    if code not in new.get(line, [])
                ]
                key = keys[line - 1] if "=" in text.splitlines()[line - 1] else "the file"
                rows.append(f"| `{runtime} {mode}` | {key} | {', '.join([*new.get(line, []), *only])} |")
    return "\n".join([*rows, ""])


def by_line(path: str, version: Version) -> dict[int, list[str]]:
    """The codes that `lint` gives each line; what is more than a warning in bold."""
    found: dict[int, list[str]] = {}
    for finding in lint.lint(path, version):
        mark = "" if finding.severity == "warning" else "**"
        shown = f"{mark}{finding.code}{mark}"
        if shown not in found.setdefault(finding.line, []):
            found[finding.line].append(shown)
    return found


def arguments() -> str:
    """What the tests found for each class of arguments, a column for each runtime (one that differs
    between two Debian suites has two) and each Slurm version's two lines."""
    found = json.loads((PROJECT / "docs" / "arguments.json").read_text(encoding="utf-8"))
    columns: dict[str, dict[str, str]] = {}
    for suite in found.values():
        for name, verdicts in suite["columns"].items():
            if not suite["slurm"]:
                verdicts = {kind: f"{found} (stand-in)" for kind, found in verdicts.items()}
            title = f"Slurm {suite['slurm']}, {name}" if name.endswith(" line") else f"`{name}`"
            if columns.setdefault(title, verdicts) != verdicts:
                columns[f"{title} beside Slurm {suite['slurm']}"] = verdicts
    names = sorted(columns, key=lambda title: (title.startswith("Slurm"), list(columns).index(title)))
    rows = [["argument", *names]]
    rows += [[kind, *(columns[name][kind] for name in names)] for kind in columns[names[0]]]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:], ""])


def releases() -> str:
    """What each release of Slurm makes of quotes, run or as the model of it says."""
    found = json.loads((PROJECT / "docs" / "releases.json").read_text(encoding="utf-8"))
    columns = [(line, name) for line, kinds in found["24.11.5"]["quotes"].items() for name in kinds]
    heads = " | ".join(f"{line}: {name}" for line, name in columns)
    lines = [f"| Slurm | {heads} | seen by |", "|---" * (len(columns) + 2) + "|"]
    for release in sorted(found, key=Version.parse):
        verdicts = [found[release]["quotes"][line][name] for line, name in columns]
        lines.append(f"| {release} | {' | '.join(verdicts)} | {found[release]['seen']} |")
    return "\n".join([*lines, ""])


def doctor_of(node: str) -> str:
    """What tests/real/test_doctor.py saw the doctor print about a node."""
    shown = json.loads((PROJECT / "docs" / "doctor.json").read_text(encoding="utf-8"))
    return f"```text\n{shown[node]}\n```\n"


def matrix() -> str:
    """What was seen of every setting with each of its values: a table for each runtime, a column for each
    kind of image. A cell that no test has seen is a KeyError."""
    found = json.loads((PROJECT / "docs" / "matrix.json").read_text(encoding="utf-8"))
    lines = []
    for runtime in known_runtimes():
        words: list[str] = []
        rows = [["setting", *runtime.accepts]]
        for cell in CELLS:
            cells = (seen(found, runtime.name, kind, cell, words) for kind in runtime.accepts)
            rows.append([f"`{cell}`", *cells])
        lines += [f"## {runtime.name}", "", *(f"| {' | '.join(row)} |" for row in rows)]
        lines.insert(len(lines) - len(rows) + 1, "|---" * len(rows[0]) + "|")
        lines += ["", *(f"{number}. {text}" for number, text in enumerate(words, 1)), ""]
    return "\n".join(lines)


def imported() -> str:
    """What tests/real/test_import.py saw of each kind of image that a runtime does not take itself: what
    it is unpacked into."""
    found = json.loads((PROJECT / "docs" / "imported.json").read_text(encoding="utf-8"))
    kinds = [
        kind
        for kind in KINDS
        if any(kind in row for suite in found.values() for row in suite["rows"].values())
    ]
    lines = [f"| runtime | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    for runtime in known_runtimes():
        verdicts: dict[str, dict[str, list[str]]] = {kind: {} for kind in kinds}
        for suite in found.values():
            for kind, made in suite["rows"].get(runtime.name, {}).items():
                verdicts[kind].setdefault(made, []).append(suite["slurm"])
        if any(verdicts.values()):
            cells = (
                "; ".join(f"as {made}: Slurm {', '.join(sorted(at))}" for made, at in each.items())
                for each in verdicts.values()
            )
            lines.append(f"| {runtime.name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def seen(found: dict[str, Any], runtime: str, kind: str, cell: str, words: list[str]) -> str:
    """What a cell of the matrix says; `words` collects those of refusals."""
    verdicts: dict[str, list[str]] = {}
    for suite in found.values():
        cells = suite["cells"].get(runtime, {})
        if kind in cells:
            verdicts.setdefault(cells[kind][cell], []).append(suite.get("slurm", ""))
    if not verdicts:
        raise KeyError(f"no test has seen `{cell}` on `{runtime}` with an image of kind {kind}")
    return "; ".join(shown(verdict, versions, words, len(verdicts)) for verdict, versions in verdicts.items())


def shown(verdict: str, versions: list[str], words: list[str], count: int) -> str:
    if verdict == "works":
        return "Slurm " + ", ".join(sorted(versions))
    text = verdict
    what, separator, said = verdict.partition(": ")
    if separator:
        if said not in words:
            words.append(said)
        text = f"{what} ({words.index(said) + 1})"
    return f"{text} beside Slurm {', '.join(sorted(versions))}" if count > 1 else text


def mpi() -> str:
    """What tests/real/test_mpi.py found, a row for each runtime and kind of image, a column for each way
    to speak with a version of Slurm. Numbers of ranks and nodes that ended alike share a verdict."""
    found = json.loads((PROJECT / "docs" / "mpi.json").read_text(encoding="utf-8"))
    columns = [(suite, way) for suite in found.values() for way in sorted({*ways(suite)})]
    titles = [f"Slurm {suite['slurm']}, {way}" for suite, way in columns]
    lines = [f"| runtime, image | {' | '.join(titles)} |", "|---" * (len(columns) + 1) + "|"]
    for name in dict.fromkeys(name for suite in found.values() for name in suite["rows"]):
        cells = [of_sizes(suite["rows"].get(name, {}), way) for suite, way in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def ways(suite: "dict[str, dict[str, dict[str, str]]]") -> list[str]:
    return [key.partition(", ")[0] for row in suite["rows"].values() for key in row]


def of_sizes(row: dict[str, str], way: str) -> str:
    """The verdict on `way`, or the verdicts, each with its numbers of ranks and nodes."""
    sizes: dict[str, list[str]] = {}
    for key, verdict in row.items():
        if key.startswith(f"{way}, "):
            sizes.setdefault(verdict, []).append(key.partition(", ")[2])
    if len(sizes) < 2:
        return next(iter(sizes), "not in this Debian")
    return "; ".join(f"{verdict} ({', '.join(which)})" for verdict, which in sizes.items())


def faults() -> str:
    """What tests/test_worlds.py found for each thing that is broken."""
    found = json.loads((PROJECT / "docs" / "faults.json").read_text(encoding="utf-8"))
    worlds = found["worlds"]["rows"].items()
    rows = [f"| {fault} | {outcome} | {remains} |" for fault, (outcome, remains) in worlds]
    return "\n".join(["| what is broken | the task | left |", "|---|---|---|", *rows, ""])


def ends() -> str:
    """What tests/real saw of every end of a task, and of what then stays until `gc`. Runtimes and versions
    of Slurm that were alike share a row."""
    found = json.loads((PROJECT / "docs" / "faults.json").read_text(encoding="utf-8"))
    versions: dict[tuple[str, str, str, str], list[str]] = {}
    for suite in (suite for suite in found.values() if "slurm" in suite):
        for end, ways in suite["rows"].items():
            for way, (status, left) in ways.items():
                versions.setdefault((end, status, left, way), []).append(suite["slurm"])
    alike: dict[tuple[str, str, str, str], list[str]] = {}
    for (end, status, left, way), where in versions.items():
        alike.setdefault((end, status, left, ", ".join(sorted(where))), []).append(way)
    rows = [
        f"| {end} | {', '.join(ways)} | {status} | {left} | {where} |"
        for (end, status, left, where), ways in alike.items()
    ]
    head = ["| what happens | runtime | the task | left until `gc` | Slurm |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows, ""])


def templates() -> str:
    """Every starting point for ~/.slurm-oci-run."""
    from slurm_oci.templates import templates

    rows = [f"| `{found.name}` | {found.summary} |" for found in templates(str(PROJECT / "user_templates"))]
    return "\n".join(["| template | |", "|---|---|", *rows, ""])


def example() -> str:
    text = (PROJECT / "docs" / "example_plugin.py").read_text(encoding="utf-8")
    return f"```python\n{text}```\n"


def problems() -> list[type[Problem]]:
    """Every class of problem that the program defines."""
    for module in pkgutil.walk_packages(slurm_oci.__path__, "slurm_oci."):
        importlib.import_module(module.name)
    for name in (name for meanings in slurm_oci.problems.KINDS.values() for name in meanings):
        getattr(slurm_oci.problems, name)  # which makes the class
    found = [Problem]
    for problem in found:  # which grows meanwhile
        found += problem.__subclasses__()
    return [problem for problem in found[1:] if problem.__module__.startswith("slurm_oci")]


def cures_in_the_code() -> dict[str, list[tuple[str, list[str]]]]:
    """By a problem's class, each message with its hints, as the code writes them."""
    names = {problem.__name__ for problem in problems()}
    found: dict[str, list[tuple[str, list[str]]]] = {}
    for path in sorted([*PROJECT.glob("dispatch/**/*.py"), *PROJECT.glob("plugins/**/*.py")]):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        texts = [node for node in nodes if isinstance(node, ast.Assign)]
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        for call in sorted(calls, key=lambda call: call.lineno):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            if name not in names:
                continue
            arguments = [branch for argument in call.args for branch in branches(argument)]
            message, *hints = [template(argument, texts) for argument in arguments] or [""]
            known = found.setdefault(name, [])
            if message and all(message != other for other, _ in known):
                known.append((message, [hint for hint in hints if hint]))
    return found


def branches(node: ast.expr) -> list[ast.expr]:
    """Both texts of `A if … else B`, in the order in which they stand."""
    return [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]


def template(node: ast.AST, texts: list[ast.Assign]) -> str:
    """The text that `node` makes, with `…` for what it puts in; empty where nothing is left to read.

    A variable is the text that was assigned to it last.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name):
        before = [text for text in texts if text.lineno < node.lineno and named(text) == node.id]
        before = before or [text for text in texts if text.col_offset == 0 and named(text) == node.id]
        return template(max(before, key=lambda text: text.lineno).value, texts) if before else ""
    if isinstance(node, ast.JoinedStr):
        parts = [template(part, []) if isinstance(part, ast.Constant) else "…" for part in node.values]
    elif isinstance(node, ast.BinOp):
        parts = [template(side, []) or "…" for side in (node.left, node.right)]
    else:
        return ""
    text = re.sub("…( ?…)+", "…", "".join(parts))
    return text if re.search(r"\w\w", text) else ""


def named(text: ast.Assign) -> str:
    return getattr(text.targets[0], "id", "")


def code(text: str) -> str:
    """`text`, which may hold back-ticks, as Markdown's code."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


PARTS = {
    "commands": commands,
    "help": help_texts,
    "kinds": kinds,
    "runtimes": runtimes,
    "errors": errors,
    "importers": importing,
    "example": example,
    "arguments": arguments,
    "releases": releases,
    "examples": examples,
    "guide_findings": guide_findings,
    "matrix": matrix,
    "imported": imported,
    "mpi": mpi,
    "findings": findings,
    "templates": templates,
    "doctor_healthy": lambda: doctor_of("healthy"),
    "doctor_broken": lambda: doctor_of("broken"),
    "commands_roff": roff.commands,
    "options_roff": roff.global_options,
    "settings_roff": roff.settings,
    "kinds_roff": roff.kinds,
    "problems_roff": lambda: roff.problems(problems()),
    "site_keys_roff": lambda: roff.table("site.md", "key"),
    "site_letters_roff": lambda: roff.table("site.md", "letter"),
    "site_example_roff": roff.site_example,
    "faults": faults,
    "ends": ends,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
