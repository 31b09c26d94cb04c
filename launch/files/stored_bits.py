"""In how many bits a model's file has its weights, for who plans with a model that nobody has loaded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from shardnet.foreign.plain_files import is_folder, is_there, user_path
from shardnet.launch.files.model_configs import is_hub_id, on_hub
from shardnet.loader.sources import EMBEDDED_NAME, find_embedded
from shardnet.quantised.schemes import AUTO, BY_BITS, form_of


def stored_scheme(model: str) -> str:
    """The scheme that comes next to what a model is stored in, and in which devices hold it where nobody says
    otherwise; auto where that is floats, or nothing is known but numbers.

    Raises:
        DamagedCheckpoint, UnsupportedModel: it is a .gguf file that cannot be read.
        ModelNotFound: it is not on the hub either, or that cannot be asked.
    """
    path = on_hub(model) if is_hub_id(model) else user_path(model)
    if is_there(path) and path.suffix == ".gguf":
        return _of_gguf(path)
    if is_folder(path):
        from shardnet.loader.folder import MOST_CONFIG_BYTES, made_as, read_object

        return made_as(read_object(path / "config.json", MOST_CONFIG_BYTES) or {}) or AUTO
    return _of_gguf(find_embedded()) if model.lower() == EMBEDDED_NAME and not is_there(path) else AUTO


def _of_gguf(path: Path) -> str:
    """That of most weights of its blocks."""
    from shardnet.loader.gguf.config import open_header

    num_bytes: Counter[str] = Counter()
    for tensor in open_header(path).tensors:
        if len(tensor.shape) > 1 and tensor.name.startswith("blk."):
            num_bytes[tensor.kind_name] += tensor.num_bytes
    [(kind, _)] = num_bytes.most_common(1) or [("", 0)]
    form = form_of(AUTO, kind, 0, is_table=False)
    return AUTO if form is None else BY_BITS[form.bits]
