"""What `shardnet-run` takes of torchrun's options, and how it refuses the rest. Starts nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from shardnet.errors import UsageError
from shardnet.launch.launcher.asked import Asked, asked_in
from shardnet.launch.launcher.meeting import Address
from shardnet.launch.launcher.options import BY_FIELD, OPTIONS, read_options
from shardnet.launch.launcher.streams import Streams, streams_by_rank, words

PAGE = Path(__file__).parents[3] / "docs" / "launcher.md"
OWN = {"--every-node", "--threads", "--debug"}


def asked(*arguments: str, on_phone: bool = False, **environment: str) -> Asked:
    return asked_in(read_options([*arguments, "script.py"], environment), cores=8, on_phone=on_phone)


def torchruns() -> dict[str, list[str]]:
    """Its options, each with all its spellings, under the longest one with `-`."""
    found = {}
    for action in get_args_parser()._actions:
        names = [each for each in action.option_strings if each not in ("-h", "--help")]
        if names:
            found[next(each for each in names if each.startswith("--") and "_" not in each)] = names
    return found


def test_every_option_of_torchruns_is_taken_in_all_its_spellings() -> None:
    ours = {spelling for option in OPTIONS for spelling in option.spellings}
    assert {each for names in torchruns().values() for each in names} <= ours


def test_defaults_are_torchruns() -> None:
    said = vars(get_args_parser().parse_args(["script.py"]))
    differ = {"master_addr": "127.0.0.1", "node_rank": "0"}  # where none is given, that is something else here
    for name in torchruns():
        field = name.strip("-").replace("-", "_")
        option = BY_FIELD[field]
        if not option.metavar or field in differ or field == "shutdown_timeout":
            continue
        assert option.default == ("" if said[field] in (None, []) else str(said[field])), name


def test_each_option_stands_in_the_table_of_the_documentation() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    named = {name for cell, _, _ in rows for name in re.findall(r"`(--[a-z-]+)", cell)}
    assert set(torchruns()) <= named
    assert named == {option.name for option in OPTIONS}


def test_what_is_typed_is_what_is_asked() -> None:
    found = asked("--nproc_per_node=2", "--threads", "3", "--role", "demo", "--every-node", "-m", "-r", "0:1,1:2")
    assert (found.num_devices, found.threads, found.role, found.num_scripts, found.kind) == (2, 3, "demo", 2, "module")
    assert found.logs.redirected == [Streams(True, False), Streams(False, True)]
    assert (found.max_restarts, found.look_every_s, found.shutdown_s) == (0, 0.1, 30.0)


def test_variables_are_defaults_as_with_torchrun() -> None:
    found = asked("--max-restarts", "2", PET_MAX_RESTARTS="7", PET_NPROC_PER_NODE="cpu", PET_NO_PYTHON="1")
    assert (found.max_restarts, found.num_devices, found.kind) == (2, 8, "program")
    with pytest.raises(UsageError, match="PET_MODULE in the environment must be 0 or 1, but is 'yes'"):
        asked(PET_MODULE="yes")


def test_arguments_after_the_script_are_its_own() -> None:
    typed = read_options(["script.py", "--debug", "-r", "x"], {})
    assert (typed.arguments, typed.flags) == (("--debug", "-r", "x"), frozenset())


def test_help_takes_no_torch() -> None:
    """It is there at once."""
    program = (
        "import sys\nfrom shardnet.launch.launcher.run import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    command = [sys.executable, "-c", program, "--help"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    assert said[-1] == "False False"
    assert {"nodes and devices:", "the script:", "restarts and signals:", "logs:"} <= set(said)
    assert not [line for line in said if re.match("  .*--[a-z]+_", line)], "each option is shown once"


@pytest.mark.parametrize("number", ["auto", "cpu", "1"])
def test_a_phone_has_one_device(number: str) -> None:
    assert asked("--nproc-per-node", number, on_phone=True).num_devices == 1
    assert asked("--nproc-per-node", number, on_phone=True).threads == 8
    with pytest.raises(UsageError, match="--nproc-per-node is 1 on a phone, but is 2: Android ends processes"):
        asked("--nproc-per-node", "2", on_phone=True)


@pytest.mark.parametrize(
    ("arguments", "door", "is_host"),
    [
        ([], None, True),
        (["--standalone"], None, True),
        (["--rdzv-endpoint", "localhost"], Address("localhost", 29400), True),
        (["--rdzv-endpoint", "localhost:0"], Address("localhost", 0), True),
        (["--rdzv-endpoint", "[::1]:4711"], Address("::1", 4711), True),
        (["--master-port", "4711"], Address("127.0.0.1", 4711), True),
        (["--master-addr", "localhost"], Address("localhost", 29500), True),
        (["--nnodes", "2"], Address("127.0.0.1", 29500), None),
        (["--nnodes", "1:2", "--node-rank", "0"], Address("127.0.0.1", 29500), True),
        (["--nnodes", "2", "--node-rank", "1"], Address("127.0.0.1", 29500), False),
        (["--nnodes", "2", "--rdzv-conf", "is_host=0, join_timeout=5"], Address("127.0.0.1", 29500), False),
        (["--nnodes", "2", "--rdzv-endpoint", "h:1", "--rdzv-conf", "invite=7-a-b"], Address("h", 1), False),
    ],
)
def test_where_nodes_meet(arguments: list[str], door: Address | None, is_host: bool | None) -> None:
    meeting = asked(*arguments).meeting
    assert (meeting.door, meeting.is_host) == (door, is_host)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rdzv-backend", "etcd"], "meet at a door of shardnet's own"),
        (["--rdzv-conf", "invite=7-harbour-green"], "lets a further node in, and this is the first"),
        (["--nnodes", "2", "--node-rank", "0", "--rdzv-conf", "invite=7-a-b"], "lets a further node in"),
        (["--nnodes", "2", "--rdzv-conf", "invite=7-a-b,is_host=1"], "node 0 lets the others in"),
        (["--rdzv-conf", "last_call_timeout=3"], "where is_host, join_timeout and invite have one"),
        (["--rdzv-conf", "is_host"], "--rdzv-conf is KEY=VALUE,..., but has 'is_host'"),
        (["--rdzv-conf", "is_host=maybe"], "must be true or false, but is 'maybe'"),
        (["--nnodes", "2", "--node-rank", "1", "--rdzv-conf", "is_host=1"], "contradict each other"),
        (["--rdzv-conf", "is_host=0"], "leaves nobody to open the door"),
        (["--nnodes", "3:2"], "--nnodes is MIN:MAX, but 3:2 has the larger one first."),
        (["--nnodes", "2:"], "--nnodes must be a whole number from 1 to 1024, but is ''."),
        (["--nnodes", "2", "--standalone"], "--standalone is for one node"),
        (["--nnodes", "2", "--rdzv-endpoint", "localhost:0"], "other nodes could not find it"),
        (["--nnodes", "2", "--node-rank", "2"], "--node-rank must be a whole number from 0 to 1, but is '2'."),
        (["--rdzv-endpoint", "localhost:1", "--master-port", "2"], "all say where nodes meet"),
        (["--nnodes", "2", "--every-node"], "--every-node on several nodes needs their number, as in --nnodes 2, and"),
        (["--nnodes", "1:2", "--node-rank", "1", "--every-node"], "--every-node on several nodes needs their number"),
        (["--rdzv-id", "a/b"], "--rdzv-id must be a name"),
        (["--role", ""], "--role must be a name"),
        (["--nproc-per-node", "gpu"], "devices compute on processors"),
        (["--start-method", "fork"], "--start-method can only be spawn, but is 'fork'"),
        (["--event-log-handler", "console"], "--event-log-handler can only be null"),
        (["--logs-specs", "mine"], "--logs-specs has no meaning here: what is logged where is up to --log-dir"),
        (["--numa-binding", "node"], "put numactl before shardnet-run"),
        (["-m", "--no-python"], "--module and --no-python are two ways to run the script"),
        (["--max-restarts", "-1"], "--max-restarts must be a whole number from 0"),
        (["--monitor-interval", "0"], "--monitor-interval must be a number of seconds above 0, but is '0'."),
        (["--shutdown-timeout", "nan"], "--shutdown-timeout must be a number of seconds above 0"),
        (["--signals-to-handle", "SIGTERM,SIGKILL"], "--signals-to-handle names 'SIGKILL', which is no signal that"),
        (["--redirects", "4"], "--redirects must be 0, 1 (standard output), 2"),
        (["--tee", "0:1,1:1"], "--tee names rank 1, but this node has ranks 0 to 0."),
        (["--local-ranks-filter", "0;1"], "--local-ranks-filter must be ranks of this node"),
    ],
)
def test_what_has_no_meaning_is_one_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)) as refused:
        asked(*arguments)
    assert "\n" not in str(refused.value)


def test_streams_are_read_as_torchrun_reads_them() -> None:
    from torch.distributed.elastic.multiprocessing import Std, to_map

    for text in ("0", "1", "2", "3", "0:3,1:0,2:1,3:2", "1:3"):
        theirs = to_map(Std.from_str(text), 4)
        assert streams_by_rank("-r", text, 4) == [
            Streams(bool(theirs[rank] & Std.OUT), bool(theirs[rank] & Std.ERR)) for rank in range(4)
        ]
    assert words("apple,,pie,orange") == ("apple,pie", "orange")
