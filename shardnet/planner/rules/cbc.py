"""The solver CBC, asked through PuLP: what it found, that there is nothing to find, or why it cannot say.

CBC runs as a process apart and is ended when it is late. `readsol_MPS` of PuLP tells these apart: *solved* (optimal, or
the best when its time was over), *infeasible* (as a linear programme, or in whole numbers), *unbounded*, *out of time*
without any solution, and answers that are none.
"""

from __future__ import annotations

import functools
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from shardnet.errors import ShardnetError
from shardnet.foreign.quoting import shortened

Result = TypeVar("Result")

GRACE_S = 2.0
"""After its time limit the solver gets this long to write its result, then it is ended."""
ATTEMPTS = 2
"""CBC was seen to hang, rarely, on a programme that it solves in milliseconds otherwise: it gets another seed then."""


def without_warnings(call: Callable[..., Result]) -> Callable[..., Result]:
    """Keep PuLP 3 from announcing PuLP 4 (which brings no solver) once for each variable."""

    @functools.wraps(call)
    def quiet(*args: Any, **options: Any) -> Result:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return call(*args, **options)

    return quiet


def import_pulp() -> Any:
    """The module `pulp`.

    Raises:
        ShardnetError: it is not installed.
    """
    try:
        import pulp
    except ImportError as cause:
        raise ShardnetError("The method lingualinked needs PuLP: pip install 'pulp>=3,<4', or use exact.") from cause
    return pulp


def solve(pulp: Any, programme: Any, time_limit_s: float) -> dict[str, float] | None:
    """The value of each variable; None where the programme has no solution, which is proven then.

    Raises:
        ShardnetError: CBC is missing, failed, or found nothing in time.
    """
    solver = pulp.PULP_CBC_CMD(msg=False)
    if not solver.available():
        solver = pulp.COIN_CMD(msg=False)
    if not solver.available():
        raise ShardnetError(
            "The method lingualinked needs the solver CBC, and PuLP finds none: install it, or use exact."
        )
    try:
        with tempfile.TemporaryDirectory(prefix="shardnet-") as folder:
            model, result = Path(folder, "model.mps"), Path(folder, "result.sol")
            variables, names, rows, _ = programme.writeMPS(str(model), rename=1)
            sense = ["-max"] if programme.sense == pulp.LpMaximize else []
            _run(solver.path, [str(model), *sense], result, time_limit_s)
            status, values = _read(solver, result, programme, variables, names, rows)
    except OSError as cause:
        raise _failed(f"cannot be run ({cause.strerror or cause})") from cause
    if status == pulp.LpStatusNotSolved:
        raise ShardnetError(f"CBC found no solution within {time_limit_s:.1f} s. Give it more time, or use exact.")
    if status not in (pulp.LpStatusOptimal, pulp.LpStatusInfeasible):
        unbounded = status == pulp.LpStatusUnbounded
        raise _failed("calls the programme unbounded, which it is not" if unbounded else "did not solve the programme")
    return values if status == pulp.LpStatusOptimal else None


def _run(path: str, what: list[str], result: Path, time_limit_s: float) -> None:
    for attempt in range(ATTEMPTS):
        limits = ["-sec", f"{time_limit_s:.3f}", "-timeMode", "elapsed", "-threads", "1"]
        seed = ["-randomCbcSeed", str(attempt + 1), "-randomSeed", str(attempt + 1)]
        command = [path, *what, *limits, *seed, "-solve", "-printingOptions", "all", "-solution", str(result)]
        try:
            ended = subprocess.run(command, capture_output=True, timeout=time_limit_s + GRACE_S, check=False)
            break
        except subprocess.TimeoutExpired as cause:
            if attempt + 1 == ATTEMPTS:
                raise ShardnetError(
                    f"CBC did not stop within {time_limit_s + GRACE_S:.0f} s, twice. Use the method exact."
                ) from cause
    if ended.returncode < 0:
        raise _failed(f"was ended by signal {-ended.returncode} ({signal.strsignal(-ended.returncode)})")
    if not result.exists():
        said = (ended.stdout + ended.stderr).decode("utf-8", errors="replace").strip().splitlines()
        last = f": {shortened(said[-1])}" if said else ""
        raise _failed(f"wrote no result (exit code {ended.returncode}{last})")


def _read(
    solver: Any, result: Path, programme: Any, variables: Any, names: Any, rows: Any
) -> tuple[int, dict[str, float]]:
    try:
        status, values, *_ = solver.readsol_MPS(str(result), programme, variables, names, rows)
    except (ValueError, IndexError) as cause:
        raise _failed("wrote a result that cannot be read") from cause
    return status, values


def _failed(what: str) -> ShardnetError:
    return ShardnetError(f"The solver CBC {what}. Use the method exact, or install another build of CBC.")
