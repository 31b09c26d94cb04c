"""What a model on the hub is called: ORG/REPO, one file of it or one kind of its files, at a revision. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shardnet.errors import ModelNotFound
from shardnet.foreign.quoting import quoted

MOST_NAME = 96
"""Characters of a repository's name, as the hub allows them."""
FORMS = "ORG/REPO, ORG/REPO:Q4_K_M or ORG/REPO/FILE.gguf, each with @REVISION behind it where one is meant"
_PLAIN = r"[A-Za-z0-9_](?:[\w.-]*[\w])?"
_NAME = re.compile(
    rf"(?P<repo>(?:{_PLAIN}/)?{_PLAIN})"
    r"(?:/(?P<file>[\w.+ -]+(?:/[\w.+ -]+)*\.gguf)|:(?P<kind>[\w.-]+))?"
    r"(?:@(?P<revision>[\w.-]+(?:/[\w.-]+)*))?",
    re.ASCII,
)


@dataclass(frozen=True)
class HubName:
    """A model on the hub."""

    repo: str
    """ORG/REPO, or REPO alone for the few that have no organisation."""
    file: str = ""
    """A .gguf file in it; empty where none is named."""
    kind: str = ""
    """Of one of its .gguf files: what its name has of a quantisation, as in Q4_K_M; empty where none is asked for."""
    revision: str = ""
    """A branch, a tag or a commit; empty for the newest."""

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else f":{self.kind}" if self.kind else ""
        return f"{self.repo}{file}{f'@{self.revision}' if self.revision else ''}"

    @property
    def shown(self) -> str:
        """What the model is called where all are told: without its organisation and its revision."""
        if self.file:
            return self.file.rpartition("/")[2].removesuffix(".gguf")
        name = self.repo.rpartition("/")[2]
        return f"{name}:{self.kind}" if self.kind else name

    @property
    def wants_gguf(self) -> bool:
        """Whether a .gguf file is asked for, and nothing else will do."""
        return bool(self.file or self.kind)


def hub_name(model: str) -> HubName | None:
    """What a model's name means on the hub; None where it can mean nothing there.

    A name that ends in .gguf is a file of a repository where it has at least two folders, and else a file here.
    """
    found = _NAME.fullmatch(model)
    if found is None:
        return None
    name = HubName(**{field: value or "" for field, value in found.groupdict().items()})
    is_possible = len(name.repo) <= MOST_NAME and not re.search(r"--|\.\.", model) and "/." not in f"/{name.file}"
    return name if is_possible and not name.repo.endswith((".gguf", ".git")) else None


def require_hub_name(model: str) -> HubName:
    """The same of a name that is nothing on this machine.

    Raises:
        ModelNotFound: it can mean nothing on the hub either.
    """
    name = hub_name(model)
    if name is None:
        raise ModelNotFound(
            f"There is no folder or file {quoted(model)} here, and no model on the hub can be called so. Give a folder "
            f"in Hugging Face layout, a .gguf file, or a hub id: {FORMS}."
        )
    return name
