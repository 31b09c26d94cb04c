"""`shardnet wheel`: hands this shardnet, and a script that sets up a phone, to another machine."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from shardnet.errors import BadRequest, UsageError
from shardnet.launch.flags import flattened
from shardnet.process.signals import until_signalled


@dataclass(frozen=True)
class WheelOptions:
    """Where the wheel goes."""

    folder: Annotated[
        str | None,
        typer.Argument(
            metavar="[FOLDER]", help="Where the wheel and setup.sh are written, to be copied.", show_default=False
        ),
    ] = None
    serve: Annotated[
        bool, typer.Option("--serve", help="Give them to machines of the local network instead, until Ctrl-C.")
    ] = False
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where --serve listens, through TLS; port 0 is any.")
    ] = "0.0.0.0:29501"

    def __post_init__(self) -> None:
        if self.serve == (self.folder is not None):
            raise BadRequest("say where the wheel goes: either a FOLDER, or --serve.")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="wheel")(flattened(wheel))


def wheel(how: WheelOptions) -> None:
    """Hand this shardnet to a phone or a board, with a script that sets it up there.

    Example: shardnet wheel --serve
    """
    if how.serve:
        with until_signalled():
            asyncio.run(_serve(how.listen))
        return
    assert how.folder is not None, "or it is served"
    _write(Path(how.folder).expanduser())


def _write(folder: Path) -> None:
    from shardnet.launch.termux.script import SCRIPT, script_for
    from shardnet.launch.termux.wheel import make_wheel

    made = make_wheel()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / made.name).write_bytes(made.content)
        (folder / SCRIPT).write_bytes(script_for(made))
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}. Name another folder.") from error
    print(f"{folder / made.name}\nCopy {folder} to the other machine, and run there: sh {SCRIPT}")


async def _serve(endpoint: str) -> None:
    from shardnet.gate.listening import addresses_of, listen
    from shardnet.launch.termux.script import SCRIPT, script_for
    from shardnet.launch.termux.serving import FileDesk
    from shardnet.launch.termux.wheel import make_wheel
    from shardnet.trust.qr import drawn

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # whoever disturbs it fills no screen
    made = make_wheel()
    listeners = listen([endpoint])
    found = addresses_of(listeners)
    if not found:
        raise UsageError(f"Nobody can dial {endpoint}. Name an address of this machine: --listen HOST:PORT.")
    script = script_for(made, f"https://{found[0]}")
    desk = FileDesk({SCRIPT: script, made.name: made.content}, lambda text: print(text, flush=True))
    await desk.serve(listeners)
    line = line_to_type(str(found[0]), SCRIPT, script)
    print(f"On the phone, in Termux, or in a terminal of a board, paste this line:\n\n{line}\n")
    if sys.stdout.isatty():
        print("\n".join(["Or scan it with the phone's camera, copy the text, and paste it:", *drawn(line, True)]))
    print("It holds no secret, but must arrive as it is. Ctrl-C ends this.", flush=True)
    await asyncio.Event().wait()


def line_to_type(address: str, name: str, script: bytes) -> str:
    """Fetches the script, and runs it if it is the one that is meant. What is trusted is the hash: hence `-k`."""
    sha256 = hashlib.sha256(script).hexdigest()
    fetch = f"curl -kfsS https://{address}/{name} -o {name}"
    return f'{fetch} && echo "{sha256}  {name}" | sha256sum -c && sh {name}'
