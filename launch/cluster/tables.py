"""How a cluster is, as a table that a person can read."""

from __future__ import annotations

from rich.table import Table

from shardnet.foreign.quoting import counted
from shardnet.launch.console import plain_console, size
from shardnet.transport.source_messages import ClusterStatus, MemberStatus, SessionStatus


def show_status(status: ClusterStatus) -> None:
    """Print it."""
    console = plain_console()
    console.print(_about_the_model(status), soft_wrap=True)
    if not status.members:
        console.print("No device has joined. Let one join: shardnet join")
        return
    table = Table(title_justify="left")
    table.add_column("device")
    table.add_column("state")
    for heading in ("units", "memory", "free", "threads", "sessions"):
        table.add_column(heading, justify="right")
    for member in status.members:
        table.add_row(*_row(member))
    console.print(table)
    for session in status.sessions:
        console.print(_about(session), soft_wrap=True)


def _row(member: MemberStatus) -> tuple[str, ...]:
    units = ", ".join(f"{first}-{last}" if first < last else str(first) for first, last in member.units)
    return (
        member.name,
        member.state,
        units or "-",
        "?" if member.memory_bytes is None else size(member.memory_bytes),
        "?" if member.memory_usable_bytes is None else size(member.memory_usable_bytes),
        "?" if member.num_threads is None else str(member.num_threads),
        str(member.num_sessions),
    )


def _about_the_model(status: ClusterStatus) -> str:
    if status.loading:
        return f"{status.loading} is being loaded."
    if status.model:
        return f"{status.model} is loaded (plan {status.plan_version}); {counted(len(status.sessions), 'sessions')}."
    return f"No model is loaded. {status.why_none}".strip()


def _about(session: SessionStatus) -> str:
    return (
        f"{session.source} asks since {session.age_s:.0f} s: {counted(session.prompt_tokens, 'tokens')} of prompt, "
        f"{session.num_tokens} of answer so far"
    )
