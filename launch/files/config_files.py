"""Reads YAML and JSON files: clusters, device classes, models. Checks nothing: see `shardnet.described.clusters`.

A name without a folder or an ending means one of the files that come with shardnet (`configs/`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardnet.described.clusters import PaperCluster, read_cluster
from shardnet.described.model_sizes import ModelConfig, model_config_from_hf
from shardnet.described.schema import LocatedDict, Place, nearest_name, read_record
from shardnet.errors import BadConfiguration, ModelNotFound, ShardnetError
from shardnet.foreign.plain_files import is_folder, is_there, parse_json, read_text, too_deep, user_path
from shardnet.foreign.quoting import quoted, shortened
from shardnet.launch.files.model_configs import embedded_config, gguf_config, is_hub_id, on_hub
from shardnet.loader.sources import EMBEDDED_NAME, name_of

if TYPE_CHECKING:  # it has moved between Python 3.10 and 3.11
    from importlib.resources.abc import Traversable

MAX_JSON_BYTES = 64 * 1024**2
MAX_YAML_BYTES = 8 * 1024**2
"""Its parser takes about a second for each MB."""


def load_cluster(name: str) -> PaperCluster:
    """The cluster of a file, or of the name of one that comes with shardnet (`home`, `edgeshard_testbed` ...).

    Raises:
        BadConfiguration: no such file or name, or something impossible in it.
    """
    data, shown = _load_named("clusters", name)
    return read_cluster(data, DeviceClasses(), shown)


def load_model_config(name: str) -> ModelConfig:
    """The numbers of a model: a name that comes with shardnet, a file, a folder with `config.json`, or a hub id.

    Raises:
        ModelNotFound: nothing under that name.
        BadConfiguration, UnsupportedModel: it says something that cannot be used.
    """
    if not name:
        raise ModelNotFound("--model must not be empty; give a folder, a file, or a name such as llama-2-7b.")
    path = user_path(name)
    if is_folder(path):
        return model_config_from_hf(_config_of(path, name), path.resolve().name)
    if is_there(path) and path.suffix == ".json":
        return model_config_from_hf(_require_mapping(load_data_file(path), path.name), path.stem)
    if is_there(path) and path.suffix == ".gguf":
        return model_config_from_hf(gguf_config(path), path.stem)
    if name.lower() == EMBEDDED_NAME and not is_there(path):
        return model_config_from_hf(embedded_config(), name)
    try:
        data, shown = _load_named("models", name)
    except _NoSuchConfig as error:
        if is_hub_id(name):
            return _config_on_hub(name)
        raise ModelNotFound(f"{error} A folder with config.json, a .gguf file or a hub id will do as well.") from error
    return read_record(ModelConfig, data, Place(shown))


def numbers_alone(model: str) -> ModelConfig | None:
    """The numbers of a model in configs/models/ or of a configuration file; None for one that may be on disk."""
    path = user_path(model)
    is_file = is_there(path) and not is_folder(path) and path.suffix in (".json", ".yaml", ".yml")
    is_known = model.replace("-", "_") in (name.replace("-", "_") for name in known_names("models"))
    return load_model_config(model) if is_file or (is_known and not is_there(path)) else None


def _config_on_hub(name: str) -> ModelConfig:
    found = on_hub(name)
    said = gguf_config(found) if found.suffix == ".gguf" else _config_of(found, name)
    return model_config_from_hf(said, name_of(name))


def _config_of(folder: Path, name: str) -> Mapping[str, Any]:
    config = folder / "config.json"
    if not is_there(config):
        raise ModelNotFound(f"{shortened(name)} is a folder without config.json; give one in Hugging Face layout.")
    return _require_mapping(load_data_file(config), config.name)


def known_names(kind: str) -> list[str]:
    """The names of the clusters, models or devices that come with shardnet."""
    return sorted(each.name.removesuffix(".yaml") for each in _folder(kind).iterdir() if each.name.endswith(".yaml"))


def load_data_file(path: Path) -> Any:
    """The content of a YAML or JSON file, its mappings with their line numbers where it is YAML.

    Raises:
        BadConfiguration: unreadable, too large, or not YAML or JSON.
    """
    is_json = path.suffix == ".json"
    text = read_text(path, MAX_JSON_BYTES if is_json else MAX_YAML_BYTES, "the file")
    shown = shortened(str(path))
    return parse_json(text, shown) if is_json else _parse_yaml(text, shown)


class _NoSuchConfig(BadConfiguration):
    pass


class DeviceClasses(Mapping[str, object]):
    """The device classes of `configs/devices/`, each read when a cluster first asks for it."""

    def __init__(self) -> None:
        self._read: dict[str, object] = {}

    def __getitem__(self, name: str) -> object:
        if name not in known_names("devices"):
            raise KeyError(name)
        if name not in self._read:
            self._read[name], _ = _load_named("devices", name)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(known_names("devices"))

    def __len__(self) -> int:
        return len(known_names("devices"))


def _load_named(kind: str, name: str) -> tuple[Any, str]:
    """The content of a file or of a shipped configuration, and how to call it in messages."""
    path, told = user_path(name), shortened(name)
    known = known_names(kind)
    wanted = name.replace("-", "_")
    found = next((each for each in known if each.replace("-", "_") == wanted), None)
    if is_folder(path) and found is None:
        raise _NoSuchConfig(f"{told} is a folder; give a file, or one of the names {', '.join(known)}.")
    if is_there(path) and not is_folder(path):
        return load_data_file(path), shortened(path.name)
    if path.suffix or len(path.parts) > 1:
        raise _NoSuchConfig(f"there is no file {told}; give a file, or one of the names {', '.join(known)}.")
    if found is None:
        raise _NoSuchConfig(f"there is no file and no {kind[:-1]} called {quoted(name)}; {nearest_name(name, known)}")
    shown = f"{kind}/{found}.yaml"
    return _parse_yaml(_folder(kind).joinpath(f"{found}.yaml").read_text(encoding="utf-8"), shown), shown


def _folder(kind: str) -> Traversable:
    try:
        return resources.files("shardnet.configs_data").joinpath(kind)
    except ModuleNotFoundError:  # run from a checkout that is not installed
        return Path(__file__).resolve().parents[2] / "configs" / kind


def _parse_yaml(text: str, shown: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ShardnetError("reading YAML needs PyYAML; install shardnet[configs], or give a JSON file.") from error

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """Safe YAML whose mappings know their lines and refuse double keys."""

    def construct_mapping(loader: Any, node: Any) -> LocatedDict:
        loader.flatten_mapping(node)
        entries: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = loader.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise BadConfiguration(f"{shown}, line {line}: the key {quoted(key)} must be text.")
            if key in entries:
                raise BadConfiguration(f"{shown}, line {line}: the key {quoted(key)} is there twice.")
            entries[key] = loader.construct_object(value_node, deep=True)
            lines[key] = line
        return LocatedDict(entries, lines, node.start_mark.line + 1)

    Loader.add_constructor("tag:yaml.org,2002:map", construct_mapping)
    try:
        value = yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise _not_yaml(error, shown) from error
    except RecursionError as error:
        raise BadConfiguration(f"{shown} is nested too deeply.") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # of a scalar: !!int x, 2024-13-45
        raise BadConfiguration(
            f"{shown} has a number, a date or another value that is none; write plain ones."
        ) from error
    fault = too_deep(value, len(text))
    if fault is not None:
        raise BadConfiguration(f"{shown} {fault}.")
    return value


def _not_yaml(error: Any, shown: str) -> BadConfiguration:
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}" if mark else ""
    problem = getattr(error, "problem", None) or str(error).split("\n", 1)[0]
    return BadConfiguration(f"{shown}{where}: not YAML: {shortened(problem)}.")


def _require_mapping(data: Any, shown: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise BadConfiguration(f"{shown} must be a mapping, but is {quoted(data)} instead.")
    return data
