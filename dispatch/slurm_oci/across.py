"""The doctor's answers from many nodes, compared.

Another program starts the doctor on the nodes: srun, pdsh, clush. Such programs mix the lines of
different nodes, put names before them and may cut long ones; so a report travels in short lines,
each of which says whose it is and which part.
"""

import base64
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from slurm_oci.checks import Finding
from slurm_oci.doctor import Report
from slurm_oci.problems import Problem

MARK = "slurm-oci-doctor"
PART = 400  # characters; srun passes on lines of less than 1024 whole
LINE = re.compile(rf"\b{MARK} (\S+) (\d+)/(\d+) ([A-Za-z0-9+/=]+)")
NOTHING = "not there"


class NobodyAnswered(Problem):
    """The program that was to start the doctor on other nodes brought no answer."""

    area = "site"


@attrs.frozen
class Nodes:
    """What the nodes answered."""

    reports: tuple[Report, ...]  # by node
    differences: dict[str, dict[str, list[str]]]  # check -> what it is -> on which nodes
    incomplete: tuple[str, ...]  # nodes whose answer came in part

    @property
    def is_fine(self) -> bool:
        failed = any(report.state == "failed" for report in self.reports)
        return not (failed or self.differences or self.incomplete)


def lines(report: Report) -> Iterator[str]:
    """The report as it travels."""
    text = base64.b64encode(json.dumps(attrs.asdict(report)).encode()).decode()
    parts = [text[start : start + PART] for start in range(0, len(text), PART)]
    for number, part in enumerate(parts, 1):
        yield f"{MARK} {report.node} {number}/{len(parts)} {part}"


def ask(words: tuple[str, ...], prefix: str, user: str) -> Nodes:
    """Has `words`, a command that starts others on nodes, start the doctor. Raises NobodyAnswered."""
    installed = os.path.join(prefix, "bin", "slurm-oci-plugins")
    program = installed if os.path.exists(installed) else os.path.abspath(sys.argv[0])
    command = [*words, program, "--prefix", prefix, "doctor", "--lines", *(["--user", user] if user else [])]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    except OSError as error:
        raise NobodyAnswered(
            f"cannot start `{words[0]}`: {error.strerror}",
            "it must be a program that this node has, as in `--across srun -N 4`",
        ) from None
    found = compare(done.stdout.decode(errors="replace"))
    if not found.reports and not found.incomplete:
        raise NobodyAnswered(
            f"`{' '.join(words)}` ended with {done.returncode}, and no node answered",
            f"it was to start `{program}`, which must be at that path on each node",
        )
    return found


def compare(said: str) -> Nodes:
    """What is in the lines that the nodes have printed."""
    parts: dict[str, dict[int, str]] = {}
    counts: dict[str, int] = {}
    for node, number, count, part in LINE.findall(said):
        parts.setdefault(node, {})[int(number)] = part
        counts[node] = int(count)
    whole = sorted(node for node in parts if len(parts[node]) == counts[node])
    texts = ("".join(part for _, part in sorted(parts[node].items())) for node in whole)
    reports = tuple(reported(json.loads(base64.b64decode(text))) for text in texts)
    return Nodes(reports, differences(reports), tuple(sorted(set(parts) - set(whole))))


def reported(told: dict[str, Any]) -> Report:
    """The report that was told in JSON."""
    return Report(told["node"], told["user"], tuple(Finding(**finding) for finding in told["findings"]))


def differences(reports: Iterable[Report]) -> dict[str, dict[str, list[str]]]:
    """Each check that should give the same on all nodes and does not: what most have comes first."""
    seen = {r.node: {f.check: f.same for f in r.findings if f.same} for r in reports}
    found = {}
    for check in dict.fromkeys(check for checks in seen.values() for check in checks):
        by_node = {node: checks.get(check, NOTHING) for node, checks in seen.items()}
        values = [value for value, _ in Counter(by_node.values()).most_common()]
        if len(values) > 1:
            found[check] = {value: [n for n in by_node if by_node[n] == value] for value in values}
    return found


def wrong(found: Nodes) -> dict[tuple[str, ...], list[Finding]]:
    """The worst findings of the nodes, each once, by the nodes that have it."""
    where: dict[Finding, list[str]] = {}
    for report in found.reports:
        for finding in report.worst:
            where.setdefault(attrs.evolve(finding, same=""), []).append(report.node)
    by_nodes: dict[tuple[str, ...], list[Finding]] = {}
    for finding, nodes in where.items():
        by_nodes.setdefault(tuple(dict.fromkeys(nodes)), []).append(finding)
    return by_nodes


def deviating(found: Nodes, node: str) -> list[str]:
    """The checks in which the node is not as most others are."""
    return [check for check, values in found.differences.items() if node not in next(iter(values.values()))]
