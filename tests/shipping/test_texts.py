"""A source that has no copy of the model has its tokenizer from the coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lasting_in_process import lasting_in_process

from shardnet.errors import DamagedCheckpoint, ModelNotFound
from shardnet.progress import silent
from shardnet.shipping.texts import texts_in, write_texts


def test_a_source_elsewhere_reads_what_it_is_sent(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to be told to copy the model there."""
    options: dict[str, Any] = {"dtype": "float32", "split": [6], "progress": silent}
    with lasting_in_process(1) as cluster:
        source = cluster.connect()
        [here] = source.load(str(tiny), **options).generate(["hello"], max_new_tokens=8)
        monkeypatch.setattr("shardnet.source.running_cluster.find_copy", lambda *_: None)
        [there] = cluster.connect().model.generate(["hello"], max_new_tokens=8)
        assert there.text == here.text and there.text
        with pytest.raises(ModelNotFound, match=r"has no checkpoint \.\./\.\./etc/passwd for"):
            source._ask("model_texts", "../../etc/passwd")


def test_only_what_belongs_to_a_tokenizer_is_sent_and_taken(tiny: Path, tmp_path: Path) -> None:
    texts = texts_in(tiny)
    assert {"config.json", "tokenizer.json"} <= texts.keys() and "model.safetensors" not in texts
    write_texts(texts, tmp_path)
    assert texts_in(tmp_path) == texts
    for wrong in ({"../x.json": b""}, {"evil.py": b""}, {"tokenizer.json": "text"}):
        with pytest.raises(DamagedCheckpoint, match="is none"):
            write_texts(wrong, tmp_path)  # type: ignore[arg-type]
