"""`shardnet plan` and `shardnet simulate` in this process."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from shardnet.errors import ShardnetError
from shardnet.launch.plan import commands as plan_commands

app = typer.Typer(pretty_exceptions_enable=False)
plan_commands.register(app)


def shardnet(*arguments: str) -> str:
    """Standard output of a command that succeeds."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str) -> ShardnetError:
    """The error of a command that fails, whose exit code `main` uses."""
    with pytest.raises(ShardnetError) as caught:
        CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert "\n" not in str(caught.value)
    return caught.value
