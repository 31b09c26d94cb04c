"""Rows of texts from JSONL, CSV and lines, and rows with results to JSONL and CSV. Pure but for the files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from shardnet.errors import BadRequest, UsageError
from shardnet.foreign.quoting import quoted
from shardnet.launch.files.text_files import read_text_of
from shardnet.launch.task.options import CSV, JSONL, STREAM, TextsOptions

Row = dict[str, Any]


def rows_of(texts: TextsOptions, files: Sequence[str]) -> list[Row]:
    """The rows that are asked for, each with a text in `texts.column`.

    Raises:
        BadRequest: a file cannot be read or has no such rows.
    """
    if texts.input is None:
        found = [*(texts.text or ()), *(read_text_of(file, "text file") for file in files)]
        rows = [{texts.column: text} for text in found]
    else:
        rows = list(_rows_in(read_text_of(texts.input, "input file"), texts))
    for number, row in enumerate(rows, 1):
        _check(row, number, texts)
    if not rows:
        raise BadRequest(f"There is no text in {_shown(texts)}.")
    return rows


def _rows_in(content: str, texts: TextsOptions) -> Iterator[Row]:
    suffix = Path(str(texts.input)).suffix.lower()
    is_jsonl = suffix == JSONL or (texts.input == STREAM and content.lstrip().startswith("{"))
    if suffix == CSV:
        yield from csv.DictReader(io.StringIO(content, newline=""))
        return
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield _object_in(line, number, texts) if is_jsonl else {texts.column: line.rstrip("\r")}


def _object_in(line: str, number: int, texts: TextsOptions) -> Row:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"Line {number} of {_shown(texts)} is no JSON: {error}.") from error
    if not isinstance(found, dict):
        raise BadRequest(f"Line {number} of {_shown(texts)} is no JSON object, but {quoted(found)}.")
    return found


def _check(row: Row, number: int, texts: TextsOptions) -> None:
    if texts.column not in row:
        known = ", ".join(str(name) for name in row if name is not None)
        raise BadRequest(
            f"Row {number} of {_shown(texts)} has no {quoted(texts.column)}: it has {known}. Name one with --column."
        )
    text = row[texts.column]
    if not isinstance(text, str) or not text.strip():
        raise BadRequest(f"{quoted(texts.column)} of row {number} of {_shown(texts)} is no text: {quoted(text)}.")


def _shown(texts: TextsOptions) -> str:
    if texts.input is None:
        return "what was given"
    return "standard input" if texts.input == STREAM else quoted(texts.input)


def with_result(row: Row, result: Any) -> Row:
    """A row with the columns of a result behind its own."""
    return {**row, **as_columns(result)}


def as_columns(result: Any) -> Row:
    """A result as one flat row: several answers, or several labels, become lists of these."""
    if isinstance(result, dict):
        return {name: value for name, value in result.items() if name != "sequence"}
    if not (result and isinstance(result[0], dict)):
        return {"features": result}
    return dict(result[0]) if len(result) == 1 else _as_lists(result)


def _as_lists(result: Sequence[Row]) -> Row:
    first, names = result[0], {"label": "labels", "score": "scores"}
    several: Row = {names.get(name, name): [each[name] for each in result] for name in first}
    if "num_parts" in first:
        several["num_parts"] = first["num_parts"]
    return several


class Writer(Protocol):
    """Where rows with results go."""

    num_done: int
    """So many an earlier run has written."""

    def write(self, row: Row) -> None:
        """The next one, which is there when this returns."""


class ToStream:
    """JSONL to an open file."""

    num_done = 0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, row: Row) -> None:
        """See `Writer`."""
        print(json.dumps(row, ensure_ascii=False), file=self._stream, flush=True)


class ToCsv:
    """A new CSV file. Lists in it are JSON."""

    num_done = 0

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("x", encoding="utf-8", newline="")
        except FileExistsError as error:
            raise UsageError(
                f"{path} exists already. Name another file, or one that ends with .jsonl: such a run goes on."
            ) from error
        except OSError as error:
            raise UsageError(f"Cannot write {path}: {error.strerror}. Name another file with --output.") from error
        self._rows: csv.DictWriter[str] | None = None

    def write(self, row: Row) -> None:
        """See `Writer`."""
        if self._rows is None:
            self._rows = csv.DictWriter(
                self._file, [*row, *(name for name in ("is_cut_off", "num_parts") if name not in row)]
            )
            self._rows.writeheader()
        plain = {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
        self._rows.writerow(plain)
        self._file.flush()


class ToJsonl:
    """A JSONL file, which an earlier run of the same may have begun.

    Args:
        rows: that are to be written, without results.

    Raises:
        UsageError: it cannot be written.
        BadRequest: what is there is not the beginning of what is to come.
    """

    def __init__(self, path: Path, rows: Sequence[Row], column: str) -> None:
        try:
            self._file = path.open("a+b")
            self._file.seek(0)
            content = self._file.read()
            end = content.rfind(b"\n") + 1  # what is behind it was cut off in the middle
            lines = content[:end].splitlines()
            _check_beginning(path, lines, rows, column)
            self._file.truncate(end)
        except OSError as error:
            raise UsageError(f"Cannot write {path}: {error.strerror}. Name another file with --output.") from error
        self.num_done = len(lines)

    def write(self, row: Row) -> None:
        """See `Writer`."""
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()


def _check_beginning(path: Path, lines: Sequence[bytes], rows: Sequence[Row], column: str) -> None:
    is_alike = len(lines) <= len(rows)
    for line, row in zip(lines, rows, strict=False):
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        is_alike = is_alike and isinstance(found, dict) and found.get(column) == row[column]
    if not is_alike:
        raise BadRequest(f"{path} holds something else than the first results of these texts. Name another file.")


def writer_for(texts: TextsOptions, rows: Sequence[Row], stdout: TextIO) -> Writer | None:
    """What `--output` asks for."""
    if texts.output is None:
        return None
    if texts.output == STREAM:
        return ToStream(stdout)
    path = Path(texts.output)
    return ToJsonl(path, rows, texts.column) if path.suffix.lower() == JSONL else ToCsv(path)


def as_lines(result: Any) -> Iterable[str]:
    """A result for a person."""
    columns = as_columns(result)
    for name in ("generated_text", "summary_text", "translation_text"):
        if name in columns:
            texts = columns[name] if isinstance(columns[name], list) else [columns[name]]
            return [*texts, *(["(cut off: see --max-new-tokens)"] if "is_cut_off" in columns else [])]
    if "features" in columns:
        return [json.dumps(columns["features"])]
    labels = columns.get("labels", [columns.get("label")])
    scores = columns.get("scores", [columns.get("score")])
    behind = f"  (mean of {columns['num_parts']} parts)" if "num_parts" in columns else ""
    return [f"{score:.3f}  {label}{behind}" for label, score in zip(labels, scores, strict=True)]
