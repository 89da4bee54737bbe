"""What the how-to pages show is what happens: every command of every session, on a real Slurm."""

import contextlib

import pytest
import sessions


@pytest.fixture(scope="module")
def roots():
    """A Slurm with the program and one without, each started when it is needed."""
    with contextlib.ExitStack() as stack:
        found = {}

        def get(fresh):
            if fresh not in found:
                found[fresh] = stack.enter_context(sessions.started(fresh))
            return found[fresh]

        yield get


@pytest.mark.skipif(sessions.SUITE not in sessions.suites(), reason="the pages show Debian trixie")
@pytest.mark.parametrize("page", sessions.pages(), ids=lambda page: page.stem)
def test_a_session_is_what_happens(page, roots):
    """Line by line; `python3 tests/real/sessions.py` writes what has become of it."""
    root = roots(sessions.is_fresh(page))
    try:
        assert sessions.rewritten(page, root) == page.read_text()
    finally:
        root.run(["sh", "-c", "rm -rf ~/.[!.]* ~/*"])
