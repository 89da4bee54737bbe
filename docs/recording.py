"""A session of a page as a picture of a terminal."""

import html
import re
import textwrap
from pathlib import Path

COLUMNS = 100
WIDTH, HEIGHT, EDGE = 8.0, 18, 14  # of a character, of a line, around the text: pixels
STYLE = """  text { font: 13px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d8dee9 }
  .command { fill: #ffffff; font-weight: bold }
  .error { fill: #ff8080 }"""


def svg(page: Path, mark: str, first: str) -> str:
    """The sessions on `page` that are marked so, from the command on that begins with `first`.

    They are those that tests/real/sessions.py has run.
    """
    found = re.findall(rf"<!-- {mark} -->\n```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    session = "".join(found)
    session = session[session.index(f"$ {first}") :]
    lines = [
        line
        for long in session.splitlines()
        for line in textwrap.wrap(long, COLUMNS, subsequent_indent="    ", break_on_hyphens=False)
    ]
    width, height = round(COLUMNS * WIDTH) + 2 * EDGE, len(lines) * HEIGHT + 2 * EDGE
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    texts = [
        f'<text x="{EDGE}" y="{EDGE + HEIGHT * number - 5}" xml:space="preserve"{style(line)}>'
        f"{html.escape(line, quote=False)}</text>"
        for number, line in enumerate(lines, 1)
    ]
    background = f'<rect width="{width}" height="{height}" rx="8" fill="#20242c"/>'
    return "\n".join([head, f"<style>\n{STYLE}\n</style>", background, *texts, "</svg>", ""])


def style(line: str) -> str:
    if line.startswith("$ "):
        return ' class="command"'
    return ' class="error"' if " error: " in line else ""
