"""Rows of `shardnet task`: what is read, what is written, and a run that goes on where another was cut off."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from shardnet.errors import BadRequest, UsageError
from shardnet.launch import cli
from shardnet.launch.task.options import TextsOptions
from shardnet.launch.task.rows import ToStream, as_columns, as_lines, rows_of, with_result, writer_for

ROWS = [{"id": 1, "text": "one"}, {"id": 2, "text": 'two,\n"three"'}, {"id": 3, "text": "vier é"}]


def written(folder: Path, name: str, content: str) -> str:
    (folder / name).write_text(content, encoding="utf-8")
    return str(folder / name)


def test_rows_come_from_jsonl_csv_lines_and_files(tmp_path: Path) -> None:
    jsonl = written(tmp_path, "a.jsonl", "\n".join(json.dumps(row) for row in ROWS) + "\n")
    assert rows_of(TextsOptions(input=jsonl), []) == ROWS
    csv = written(tmp_path, "a.csv", 'id,what\n1,one\n2,"two,\n""three"""\n3,vier é\n')
    read = rows_of(TextsOptions(input=csv, column="what"), [])
    assert read == [{"id": str(row["id"]), "what": row["text"]} for row in ROWS]
    lines = written(tmp_path, "a.txt", "one\r\n\ntwo\n")
    assert rows_of(TextsOptions(input=lines), []) == [{"text": "one"}, {"text": "two"}]
    assert rows_of(TextsOptions(), [lines]) == [{"text": "one\r\n\ntwo\n"}]
    assert rows_of(TextsOptions(text=["a", "b"]), []) == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "x"}\n{', "Line 2 of .* is no JSON"),
        ("a.jsonl", "[1]\n", "is no JSON object"),
        ("a.jsonl", '{"body": "x"}\n', "has no 'text': it has body. Name one with --column"),
        ("a.jsonl", '{"text": 5}\n', "of row 1 of .* is no text: 5"),
        ("a.csv", "text\n \n", "is no text"),
        ("a.csv", "text\n", "There is no text"),
        ("a.txt", "", "There is no text"),
    ],
)
def test_rows_without_texts_are_refused(tmp_path: Path, name: str, content: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        rows_of(TextsOptions(input=written(tmp_path, name, content)), [])


def summaries(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [with_result(row, {"summary_text": str(row["text"])[:2]}) for row in rows]


def test_a_run_that_was_cut_off_goes_on_behind_its_last_whole_line(tmp_path: Path) -> None:
    texts = TextsOptions(output=str(tmp_path / "out.jsonl"))
    all_of_it = summaries(ROWS)
    first = writer_for(texts, ROWS, sys.stdout)
    assert first is not None and first.num_done == 0
    first.write(all_of_it[0])
    with (tmp_path / "out.jsonl").open("a") as opened:
        opened.write('{"id": 2, "te')
    then = writer_for(texts, ROWS, sys.stdout)
    assert then is not None and then.num_done == 1
    for row in all_of_it[1:]:
        then.write(row)
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == all_of_it
    done = writer_for(texts, ROWS, sys.stdout)
    assert done is not None and done.num_done == 3


@pytest.mark.parametrize("content", ['{"text": "another"}\n', "no json\n", '{"text": "one"}\n' * 4])
def test_it_does_not_go_on_behind_something_else(tmp_path: Path, content: str) -> None:
    texts = TextsOptions(output=written(tmp_path, "out.jsonl", content))
    with pytest.raises(BadRequest, match="holds something else"):
        writer_for(texts, ROWS, sys.stdout)
    assert (tmp_path / "out.jsonl").read_text() == content


def test_csv_is_written_anew_and_streams_are_jsonl(tmp_path: Path) -> None:
    texts = TextsOptions(output=str(tmp_path / "out.csv"))
    writer = writer_for(texts, ROWS, sys.stdout)
    assert writer is not None
    for row in summaries(ROWS):
        writer.write(row)
    read = rows_of(TextsOptions(input=str(tmp_path / "out.csv"), column="summary_text"), [])
    assert [row["summary_text"] for row in read] == ["on", "tw", "vi"]
    with pytest.raises(UsageError, match="exists already"):
        writer_for(texts, ROWS, sys.stdout)
    stream = io.StringIO()
    to_stream = writer_for(TextsOptions(output="-"), ROWS, stream)
    assert isinstance(to_stream, ToStream)
    to_stream.write({"text": "é"})
    assert stream.getvalue() == '{"text": "é"}\n'


@pytest.mark.parametrize(
    ("result", "columns", "lines"),
    [
        ([{"generated_text": "a b"}], {"generated_text": "a b"}, ["a b"]),
        ([{"generated_text": "a"}, {"generated_text": "b"}], {"generated_text": ["a", "b"]}, ["a", "b"]),
        ({"label": "calm", "score": 0.5}, {"label": "calm", "score": 0.5}, ["0.500  calm"]),
        (
            [{"label": "calm", "score": 0.75, "num_parts": 2}, {"label": "angry", "score": 0.25, "num_parts": 2}],
            {"labels": ["calm", "angry"], "scores": [0.75, 0.25], "num_parts": 2},
            ["0.750  calm  (mean of 2 parts)", "0.250  angry  (mean of 2 parts)"],
        ),
        ({"sequence": "x", "labels": ["a"], "scores": [1.0]}, {"labels": ["a"], "scores": [1.0]}, ["1.000  a"]),
        ([[[1.0, 2.0]]], {"features": [[[1.0, 2.0]]]}, ["[[[1.0, 2.0]]]"]),
    ],
)
def test_results_are_columns_for_files_and_lines_for_people(result: Any, columns: Any, lines: list[str]) -> None:
    assert as_columns(result) == columns
    assert list(as_lines(result)) == lines


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("answering", "--text", "x"), "the task must be one of summarization"),
        (("summarization",), "give one of these"),
        (("summarization", "--text", "x", "--top-k", "0"), "--top-k must be"),
        (("summarization", "--text", "x", "--multi-label"), "summarization takes no multi_label"),
        (("translation", "--text", "x"), "translation needs tgt_lang"),
        (("summarization", "--input", "a.xml"), "--input must end with"),
        (("summarization", "--text", "x", "--output", "a.xml"), "--output must end with"),
        (("summarization", "--text", "x", "--output", "a.csv", "--json"), "leave one of them out"),
        (("zero-shot-classification", "--text", "x", "--candidate-labels", "a,,b"), "candidate_labels must be"),
        (("summarization", "--text", "x", "--prompt", "no place"), "must have {text} once"),
    ],
)
def test_what_is_impossible_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["shardnet", "task", *arguments, "--model", "smollm2-135m-instruct"])
    monkeypatch.delenv("SHARDNET_ENDPOINT", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code not in (0, None)
    assert said in capsys.readouterr().err
