"""Where in a TOML text its keys and the elements of its lists stand, which `tomllib` does not tell."""

import tomllib
from typing import Any

DEEPEST = 100
Place = tuple[str | int, ...]  # keys from the top, and the numbers of elements


class Positions:
    """The lines of a valid TOML text by what they set.

    Raises ValueError where it is not valid, RecursionError where it is nested too deeply.
    """

    def __init__(self, text: str) -> None:
        self.lines = text.replace("\r\n", "\n").split("\n")
        self.found: dict[Place, int] = {(): 1}
        table: Place = ()
        first = 0
        while first < len(self.lines):
            end, data = self.statement(first)
            is_header = self.lines[first].lstrip().startswith("[")
            place = self.note(() if is_header else table, data, first)
            if is_header and self.lines[first].lstrip().startswith("[["):
                table = (*place, self.number(place))
                self.found[table] = first + 1
            elif is_header:
                table = place
            elif end > first + 1:
                self.note_elements(place, place[len(table) :], first, end)
            first = end

    def __getitem__(self, place: Place) -> int:
        """The line, counted from 1, that sets `place`, or else the nearest table or key around it."""
        while place not in self.found:
            place = place[:-1]
        return self.found[place]

    def number(self, place: Place) -> int:
        """Which of the tables called `place`, from 0, begins now."""
        number = 0
        while (*place, number) in self.found:
            number += 1
        return number

    def statement(self, first: int) -> tuple[int, dict[str, Any]]:
        """The line after the statement that begins in line `first`, and the statement's own data.

        Of a statement of several lines no beginning is valid.
        """
        for end in range(first + 1, len(self.lines) + 1):
            try:
                return end, tomllib.loads("\n".join(self.lines[first:end]))
            except tomllib.TOMLDecodeError:
                continue
        raise ValueError(f"not valid TOML (from line {first + 1})")

    def note(self, above: Place, data: Any, first: int) -> Place:
        """Notes every key in a statement's data; the place of the last and innermost."""
        place = above
        if len(place) > DEEPEST:
            raise RecursionError
        for key, value in data.items() if isinstance(data, dict) else ():
            self.found.setdefault((*above, key), first + 1)
            place = self.note((*above, key), value, first)
        return place

    def note_elements(self, place: Place, keys: Place, first: int, end: int) -> None:
        """Notes the line in which each element of a list of several lines ends."""
        noted = 0
        for last in range(first + 1, end + 1):
            try:  # what is there up to here, closed
                part: Any = tomllib.loads("\n".join([*self.lines[first:last], "]" * (last < end)]))
            except tomllib.TOMLDecodeError:
                continue
            for key in keys:
                part = part[key]
            if isinstance(part, list):
                self.found.update({(*place, number): last for number in range(noted, len(part))})
                noted = len(part)
