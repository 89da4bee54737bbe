"""What docs/faults.md says of each end of a task on a real Slurm."""

import table


def record(slurm, end, ways, status, found=()):
    """Compares with docs/faults.md how a task ended and, by the names that `left` gives, what then stayed;
    it is gone after `gc`, or the test has failed."""
    row = [str(status), ", ".join(found) or "nothing"]
    table.compare("faults", (slurm.root.suite, "rows", end, ways), row, slurm=slurm.root.slurm_version)
