"""From a model's name on the hub to its files on this machine: what is here is not asked for."""

from __future__ import annotations

from pathlib import Path

from shardnet.errors import ModelNotFetched, ModelNotFound
from shardnet.loader.hub.cached import Repository
from shardnet.loader.hub.choosing import CONFIG, INDEX, gguf_of, has_safetensors, weights_of
from shardnet.loader.hub.fetching import fetch
from shardnet.loader.hub.heads import head_of
from shardnet.loader.hub.listing import Listing, ask_for, keep, kept
from shardnet.loader.hub.names import require_hub_name
from shardnet.loader.hub.refusals import offline
from shardnet.progress import Progress, silent


def fetched(model: str, cache_dir: Path, progress: Progress | None) -> Path:
    """The folder of a model on the hub, or its .gguf file: from the hub's cache where it is whole, else fetched.

    Raises:
        ModelNotFound: the name means nothing there, or nothing for this user; as ModelNotFetched where the network, the
            hub or the disk is in the way.
        UnsupportedModel: its weights are in no format that can be read part by part.
    """
    repository = Repository.of(require_hub_name(model), cache_dir)
    found = repository.found()
    if found is not None:
        return found
    listing, looks_whole = _looked_up(repository)
    if listing is None:
        return looks_whole
    found = repository.found()
    if found is not None:
        return found
    if gguf_of(listing.files, repository.name) is None and INDEX in listing.files:
        fetch(repository, listing, [INDEX], silent)
    wanted = repository.wanted(listing)
    fetch(repository, listing, wanted, progress or silent)
    repository.point(listing.commit)
    return repository.place(listing, wanted)


def in_cache(model: str, cache_dir: Path) -> Path | None:
    """The same where all of it is in the hub's cache; None where it is not. Asks no network."""
    repository = Repository.of(require_hub_name(model), cache_dir)
    return repository.found() or _by_its_looks(repository)


def described(model: str, cache_dir: Path) -> Path:
    """What says what a model on the hub is, without its weights: a folder with `config.json`, or the beginning of its
    .gguf file.

    Raises: as `fetched`.
    """
    repository = Repository.of(require_hub_name(model), cache_dir)
    commit = repository.commit()
    listing = None if commit is None else kept(repository.lists, commit)
    if listing is None:
        listing, looks_whole = _looked_up(repository)
        if listing is None:
            return looks_whole
    gguf = gguf_of(listing.files, repository.name)
    if gguf is not None:
        whole = repository.snapshot(listing.commit) / gguf
        found = whole if repository.has(listing, gguf) else head_of(repository, listing, gguf)
    elif CONFIG not in listing.files:
        raise ModelNotFound(f"{repository.name.repo} on the hub has no config.json and no .gguf file. Is it a model?")
    else:
        if not has_safetensors(listing.files):
            weights_of(listing.files, None, repository.name)  # says what is wrong with them
        fetch(repository, listing, [CONFIG], silent)
        found = repository.snapshot(listing.commit)
    repository.point(listing.commit)
    return found


def _looked_up(repository: Repository) -> tuple[Listing | None, Path]:
    """What the repository has, as the hub says now; or the model, where the hub cannot say and it looks whole here.

    What another program has fetched stays the model's newest: it is asked of what commit that is.
    """
    from huggingface_hub import constants

    looks_whole = _by_its_looks(repository)
    if constants.HF_HUB_OFFLINE:
        if looks_whole is None:
            raise offline(repository.name)
        return None, looks_whole
    try:
        listing = _listing(repository, looks_whole)
    except ModelNotFetched:
        if looks_whole is None:
            raise
        return None, looks_whole
    keep(repository.lists, listing)
    return listing, repository.snapshot(listing.commit)


def _listing(repository: Repository, looks_whole: Path | None) -> Listing:
    name, commit = repository.name, repository.commit()
    if looks_whole is not None and commit is not None:
        try:
            return ask_for(name, commit)
        except ModelNotFetched:
            raise
        except ModelNotFound:
            pass  # the hub has forgotten that commit, and has another one under this revision
    return ask_for(name, name.revision)


def _by_its_looks(repository: Repository) -> Path | None:
    """The model where nobody has said what the repository has: what was said is known better."""
    commit = repository.commit()
    return None if commit is None or kept(repository.lists, commit) is not None else repository.looks_whole()
