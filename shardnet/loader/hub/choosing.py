"""Which files of a repository make the model that is asked for. Pure.

Of safetensors and .gguf one format is taken, and of each what is read: no weights of other libraries, no second copy in
another folder.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from shardnet.errors import ModelNotFound, UnsupportedModel
from shardnet.foreign.quoting import quoted, shortened
from shardnet.loader.hub.names import HubName

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
BESIDE_ENDINGS = (".json", ".model", ".jinja", ".txt")
"""Of what belongs to a tokenizer, a configuration or a chat."""
NOT_BESIDE = (".index.json", "README.txt", "LICENSE.txt", "NOTICE.txt", "USE_POLICY.txt")
"""Endings of what no model needs: lists of other weights, and what is for people."""
BESIDE_FOLDERS = ("additional_chat_templates/",)
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ckpt", ".nemo", ".mlmodel", ".safetensors")
NO_MODEL = ("mmproj", "imatrix")
"""In names of .gguf files that lie beside models: what sees pictures, what was measured to quantise."""
MOST_LISTED = 12


def gguf_of(files: Collection[str], name: HubName) -> str | None:
    """The .gguf file that is meant; None where the repository's safetensors are.

    Raises:
        ModelNotFound: none is meant, or several could be.
        UnsupportedModel: it is one of several files of a model.
    """
    if not name.wants_gguf and has_safetensors(files):
        return None
    there = sorted(filter(_is_gguf, files))
    if name.file:
        if name.file not in files:
            raise ModelNotFound(f"{name.repo} on the hub has no file {quoted(name.file)}. {_listed(there, name)}")
        return _whole(name.file, name)
    return _of_kind(there, name) if there or name.kind else None


def _of_kind(there: list[str], name: HubName) -> str:
    """The one of a repository's .gguf files that is of the kind that is asked for, if one is."""
    meant = [file for file in there if _is_of_kind(file, name.kind)]
    whole = [file for file in meant if not _is_part(file)]
    if len(whole) == 1:
        return whole[0]
    if not meant:
        raise ModelNotFound(
            f"{name.repo} on the hub has no .gguf file of the kind {quoted(name.kind)}. {_listed(there, name)}"
        )
    if not whole:
        return _whole(meant[0], name)
    kind = f" of the kind {quoted(name.kind)}" if name.kind else ""
    raise ModelNotFound(f"{name.repo} on the hub has {len(whole)} .gguf files{kind}. {_listed(whole, name)}")


def beside_weights(files: Iterable[str]) -> list[str]:
    """The small files that belong to a model in safetensors: configuration, tokenizer, chat template."""
    return sorted(file for file in files if _is_beside(file))


def has_safetensors(files: Collection[str]) -> bool:
    """Whether a repository has weights that can be read part by part."""
    return WEIGHTS in files or INDEX in files


def weights_of(files: Collection[str], listed: Collection[str] | None, name: HubName) -> list[str]:
    """The files of a model's weights in safetensors.

    Args:
        files: of the repository.
        listed: those that its index names; None where it has no index.

    Raises:
        ModelNotFound: there are none, or the index names others.
        UnsupportedModel: there are weights, but in no format that can be read.
    """
    if listed is not None:
        missing = sorted(set(listed) - set(files))
        if missing:
            raise ModelNotFound(
                f"{name.repo} on the hub is not whole: its {INDEX} names {shortened(missing[0])}, which is not there. "
                "Ask its authors, or give another revision: ORG/REPO@REVISION."
            )
        return sorted(set(listed))
    if WEIGHTS in files:
        return [WEIGHTS]
    others = sorted(file for file in files if file.endswith(OTHER_WEIGHTS))
    if others:
        raise UnsupportedModel(
            f"{name.repo} on the hub has its weights as {shortened(others[0])}, and only model.safetensors (or the "
            "files of its index) and .gguf files can be read part by part. Look for another copy of the model there, "
            "or save it once with save_pretrained of transformers."
        )
    raise ModelNotFound(f"{name.repo} on the hub has no weights. Is it a model?")


def _is_beside(file: str) -> bool:
    if file.endswith(NOT_BESIDE) or not file.endswith(BESIDE_ENDINGS):
        return file == INDEX
    return "/" not in file or file.startswith(BESIDE_FOLDERS)


def _whole(file: str, name: HubName) -> str:
    if _is_part(file):
        raise UnsupportedModel(
            f"{shortened(file)} of {name.repo} is one of several files of a model, and only .gguf files that hold a "
            "whole one can be read. Take a smaller quantisation, or download the parts and join them: "
            "llama-gguf-split --merge FIRST-FILE NEW-FILE."
        )
    return file


def _is_part(file: str) -> bool:
    """Files of one model are called NAME-00001-of-00003.gguf."""
    before, of, count = file.removesuffix(".gguf").rpartition("-of-")
    return bool(of) and count.isdecimal() and before.rpartition("-")[2].isdecimal()


def _is_gguf(file: str) -> bool:
    return file.endswith(".gguf") and not any(other in file.lower() for other in NO_MODEL)


def _is_of_kind(file: str, kind: str) -> bool:
    """Whether a kind of quantisation stands in a file's name, and no longer one does: Q4_K is not Q4_K_M."""
    alone = rf"(?<!\w){re.escape(kind)}(?!\w)"
    return not kind or re.search(alone, file.removesuffix(".gguf"), re.ASCII | re.IGNORECASE) is not None


def _listed(there: list[str], name: HubName) -> str:
    if not there:
        return "It has no .gguf files at all."
    more = f" and {len(there) - MOST_LISTED} more" if len(there) > MOST_LISTED else ""
    return f"Name one of these, as in {name.repo}/{there[0]}: {', '.join(there[:MOST_LISTED])}{more}."
