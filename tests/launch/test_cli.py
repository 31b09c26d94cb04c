"""The command line up to the point where devices would be started: help, versions, and everything that is refused."""

from __future__ import annotations

import errno
import gc
import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import shardnet
from shardnet.cluster.load_options import LoadOptions
from shardnet.errors import ClusterError, DoesNotFit
from shardnet.launch import cli, values
from shardnet.launch.files.text_files import MOST_TEXT_BYTES
from shardnet.launch.generate import options as generate_options
from shardnet.launch.generate.options import DeviceOptions, GenerateOptions, OutputOptions
from shardnet.process.ending import orderly_exit
from shardnet.process.imports import importing
from shardnet.session.options import GenerationOptions

GENERATE = ["generate", "--model", "some/folder"]
PROMPT = [*GENERATE, "--prompt", "Hello"]


def run(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> int:
    monkeypatch.setattr(sys, "argv", ["shardnet", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(autouse=True)
def nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a cluster must not be started")

    monkeypatch.setitem(sys.modules, "shardnet.launch.generate.run", SimpleNamespace(run=refuse))  # type: ignore[misc]
    monkeypatch.delenv("SHARDNET_ENDPOINT", raising=False)


def test_the_collector_rests_while_modules_are_imported() -> None:
    """It took 0.5 s of every command, and 0.6 s more at its end, to find nothing in torch's modules."""
    assert gc.isenabled()
    with pytest.raises(ImportError), importing():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, ["--version"]) == 0
    assert capsys.readouterr().out == f"shardnet {shardnet.__version__}\n"


COMMANDS = ["demo", "generate", "profile", "bench", "plan", "simulate", "doctor"]


def test_utf_8_is_read_in_every_locale() -> None:
    """In the C locale, Python decodes arguments as ASCII: "café" was refused as not UTF-8."""
    program = (
        "import sys; from shardnet.launch.generate.options import read_prompts, read_stops; "
        "print(ascii(sys.argv[1:]), ascii((read_prompts(sys.argv[1:], None), read_stops(sys.argv[1:]))))"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program, "café"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "['caf\\udcc3\\udca9'] (('caf\\xe9',), ('caf\\xe9',))\n"


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_every_command_has_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert run(monkeypatch, [*command, "--help"]) == 0
    assert "Usage: shardnet" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["up", "load"])
def test_all_that_a_model_is_loaded_with_can_be_said_where_a_cluster_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Docs had `up --private-to laptop`, `--quality` and `--no-share-prefixes`, which neither command knew."""
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, [command, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("--private-to", "--quality", "--no-share-prefixes", "--kv-dtype", "--wire", "--no-rebalance"):
        assert option in shown, option
    assert "--split" not in shown


def test_help_and_version_do_not_import_torch() -> None:
    program = (
        "import sys, shardnet.launch.commands; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["demo", "--devices", "0"], "--devices must be 1 or more, but is 0."),
        (["demo", "--prompt", ""], "--prompt must not be empty."),
        ([*GENERATE, "--prompt", "a", "--prompt", " "], "--prompt must not be empty."),
        ([*GENERATE, "--prompt", "a\udcff"], "--prompt is not text in UTF-8"),
        (["generate", "--model", "", "--prompt", "a"], "--model must not be empty"),
        ([*PROMPT, "--threads", "100000"], "--threads is 100000, but this machine has"),
        ([*PROMPT, "--max-new-tokens", "-3"], "--max-new-tokens must be 1 or more, but is -3."),
        ([*PROMPT, "--threads", "0"], "--threads must be 1 or more, but is 0."),
        ([*PROMPT, "--context", "0"], "--context must be 1 or more, but is 0."),
        (
            [*PROMPT, "--speculate", "draft"],
            "--speculate draft needs --draft MODEL, a small model with the same tokenizer.",
        ),
        ([*PROMPT, "--draft", "/no/such/model"], "/no/such/model"),
        (["bench", "--speculate", "draft"], "--speculate draft needs --draft MODEL"),
        (["bench", "--draft", "/no/such/model"], "/no/such/model"),
        ([*PROMPT, "--draft", " "], "a draft is a path or a hub id"),
        ([*PROMPT, "--draft", "m", "--draft-weights", "int3"], "--draft-weights must be one of"),
        ([*PROMPT, "--draft", "m", "--draft-threads", "0"], "--draft-threads must be 1 or more, but is 0."),
        ([*PROMPT, "--temperature", "-1"], "--temperature must be"),
        ([*PROMPT, "--temperature", "nan"], "--temperature must be"),
        ([*PROMPT, "--top-p", "0"], "--top-p must be"),
        ([*PROMPT, "--top-p", "1.5"], "--top-p must be"),
        ([*PROMPT, "--top-k", "-1"], "--top-k must be"),
        ([*PROMPT, "--min-p", "2"], "--min-p must be"),
        ([*PROMPT, "--repetition-penalty", "0"], "--repetition-penalty must be"),
        ([*PROMPT, "--presence-penalty", "3"], "--presence-penalty must be between -2 and 2, but is 3.0."),
        ([*PROMPT, "--frequency-penalty", "-3"], "--frequency-penalty must be between -2 and 2, but is -3.0."),
        ([*PROMPT, "--logit-bias", "5"], "--logit-bias must be like 50256=-100 (ID=BIAS), but is '5'."),
        ([*PROMPT, "--logit-bias", "5=-101"], "the logit_bias of the token 5 must be between -100 and 100"),
        ([*PROMPT, "--stop-token-id", "-5"], "a token id of stop_token_ids must be at least 0, but is -5."),
        ([*PROMPT, "-n", "4", "--min-tokens", "5"], "--min-tokens must be at most the 4 tokens that the answer may"),
        ([*PROMPT, "--logprobs", "21"], "--logprobs must be -1 (none) to 20, but is 21."),
        ([*PROMPT, "--logprobs", "3"], "--logprobs are shown in the object of --json alone. Add --json."),
        ([*PROMPT, "--seed", "-1"], "--seed must be"),
        ([*PROMPT, "--dtype", "int3"], "--dtype must be one of float32, bfloat16, float16, but is 'int3'."),
        ([*PROMPT, "--placement", "magic"], "--placement must be one of spread, auto, exact,"),
        ([*PROMPT, "--objective", "fun"], "--objective must be one of latency, throughput, energy, but is 'fun'."),
        ([*PROMPT, "--in-flight", "0"], "--in-flight must be 1 or more, but is 0."),
        ([*PROMPT, "--quality", "lots"], "--quality is how much more perplexity is allowed, such as 1%"),
        ([*PROMPT, "--private-to", " "], "--private-to is the name of a device, but this is ' '."),
        (
            [*PROMPT, "--objective", "energy"],
            "--objective energy has no effect on the placement spread, which uses every",
        ),
        ([*PROMPT, "--split", "3,3", "--placement", "auto"], "--placement auto has no effect on a split, which is a"),
        ([*PROMPT, "--split", "3,3", "--in-flight", "4"], "--in-flight 4 has no effect on a split"),
        ([*PROMPT, "--stop", ""], "--stop must not be empty"),
        ([*PROMPT, "--stop", "a\udcff"], "--stop is not text in UTF-8"),
        ([*PROMPT, "--split", "3,x"], "--split must be whole numbers of units such as 10,10,12, but is '3,x'."),
        ([*PROMPT, "--split", "3,0"], "--split must be whole numbers"),
        ([*PROMPT, "--split", "3", "--devices", "2"], "--split names 1 shard for 2 devices"),
        ([*PROMPT, "--split", "1,1,1", "--devices", "2"], "--split names 3 shards for 2 devices"),
        ([*PROMPT, "--devices", "2", "--cluster", "127.0.0.1:1"], "leave one of them out"),
        ([*PROMPT, "--threads", "2", "--cluster", "127.0.0.1:1"], "--threads is for local devices"),
        ([*PROMPT, "--profile", "/proc/nowhere"], "Cannot write a profile to /proc/nowhere"),
        ([*PROMPT, "--prompt-file", "x"], "--prompt and --prompt-file cannot be used together"),
        ([*GENERATE, "--prompt-file", "/no/such/file"], "The prompt file '/no/such/file' cannot be read"),
        (GENERATE, "There is no prompt."),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert run(monkeypatch, arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("shardnet: ")
    assert printed.err.count("\n") == 1
    assert sentence in printed.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["generate"], "There is no --model"),
        (["demo", "--devices", "many"], "Invalid value for '--devices'"),
        (["demo", "--nonsense"], "No such option: --nonsense. See shardnet demo --help."),
        (["unheard-of"], "No such command 'unheard-of'. See shardnet --help."),
    ],
)
def test_wrong_options_end_with_2_and_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert run(monkeypatch, arguments) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert sentence in printed.err


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_prompt_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    (tmp_path / "prompt").write_text(text)
    assert run(monkeypatch, [*GENERATE, "--prompt-file", str(tmp_path / "prompt")]) == 2
    assert "is empty" in capsys.readouterr().err


def test_a_prompt_file_must_be_text(tmp_path: Path) -> None:
    (tmp_path / "prompt").write_bytes(b"abc\xff")
    with pytest.raises(shardnet.BadRequest, match=r"not text in UTF-8 \(byte 3\)"):
        generate_options.read_prompts([], str(tmp_path / "prompt"))


@pytest.mark.parametrize(
    ("stdin", "said"),
    [
        (b"", "standard input is empty"),
        (b" ", "standard input is empty"),
        (b"a\xff", r"not text in UTF-8 \(byte 1\)"),
        (b"a" * (MOST_TEXT_BYTES + 1), "Standard input has more than the 16777216 bytes"),
    ],
)
def test_a_prompt_from_standard_input_must_be_there(monkeypatch: pytest.MonkeyPatch, stdin: bytes, said: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "ascii"))
    with pytest.raises(shardnet.BadRequest, match=said):
        generate_options.read_prompts([], "-")


def test_a_prompt_is_utf_8_whatever_the_encoding_of_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("né".encode()), "ascii"))
    assert generate_options.read_prompts([], "-") == ("né",)


def test_a_prompt_file_may_be_a_pipe_that_somebody_writes_to(tmp_path: Path) -> None:
    """As the shell makes of <(command). One that nobody writes to, and /dev/zero, must not hold the command up."""
    reading, writing = os.pipe()
    os.write(writing, b"Hello")
    os.close(writing)
    assert generate_options.read_prompts([], f"/dev/fd/{reading}") == ("Hello",)
    os.close(reading)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(shardnet.BadRequest, match="is empty"):
        generate_options.read_prompts([], str(tmp_path / "pipe"))
    with pytest.raises(shardnet.BadRequest, match="has more than the 16777216 bytes that a prompt may have"):
        generate_options.read_prompts([], "/dev/zero")


def test_a_split_says_how_many_devices_are_started() -> None:
    def asked(split: tuple[int, ...] | None) -> GenerateOptions:
        load = LoadOptions(split=split)
        return GenerateOptions("m", ("a",), DeviceOptions(), load, GenerationOptions(), OutputOptions())

    assert asked(None).num_local_devices == 3
    assert asked((4, 2)).num_local_devices == 2


def test_prompts_and_splits_are_read(tmp_path: Path) -> None:
    (tmp_path / "prompt").write_text("one\ntwo\n", encoding="utf-8")
    assert generate_options.read_prompts([], str(tmp_path / "prompt")) == ("one\ntwo\n",)
    assert generate_options.read_prompts(["a", "b"], None) == ("a", "b")
    assert values.read_split("10, 10,12") == (10, 10, 12)
    assert values.read_split(None) is None


@pytest.mark.parametrize(
    ("error", "exit_code"), [(DoesNotFit("Too big."), 3), (ClusterError("Gone."), 1), (shardnet.UsageError("No."), 2)]
)
def test_errors_end_with_their_exit_code(
    capsys: pytest.CaptureFixture[str], error: shardnet.ShardnetError, exit_code: int
) -> None:
    with pytest.raises(SystemExit) as ended, orderly_exit(debug=False):
        raise error
    assert ended.value.code == exit_code
    assert capsys.readouterr().err == f"shardnet: {error}\n"


def test_debug_lets_errors_pass() -> None:
    with pytest.raises(ClusterError), orderly_exit(debug=True):
        raise ClusterError("Gone.")


def test_ctrl_c_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, orderly_exit(debug=False):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_no_mistake_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, orderly_exit(debug=False):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert ended.value.code == 2
    assert "cannot be written: No space left on device. Make room" in capsys.readouterr().err


def test_our_own_mistakes_are_owned(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, orderly_exit(debug=False):
        raise KeyError("x")
    assert ended.value.code == 1
    assert (
        "This is a mistake in shardnet (KeyError: 'x'). Run the command again with --debug" in capsys.readouterr().err
    )
