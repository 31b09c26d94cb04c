"""`shardnet.pipeline`: a task, as transformers' `pipeline` has it, over the devices of a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from shardnet.checks import iterated
from shardnet.cluster.cluster import Cluster
from shardnet.cluster.model import Model
from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.session.prompts import check_text
from shardnet.source.running_cluster import RunningCluster
from shardnet.tasks.features import Extracting
from shardnet.tasks.labelling import Labelling
from shardnet.tasks.names import CLASSES, FEATURES, GENERATION, ZERO_SHOT, check_arguments, task_named
from shardnet.tasks.options import TaskOptions
from shardnet.tasks.writing import writing

BATCH_SIZE = 16


class Performer(Protocol):
    """One task with all that was asked."""

    def run(self, texts: Sequence[Any]) -> Iterator[Any]:
        """The result of each text, in their order."""


class Pipeline:
    """A task with a model: `pipe(text)`, `pipe([text, text])`. A context manager: what it started ends with it.

    Attributes:
        task: its name.
        model: the `Model` that it asks.
    """

    def __init__(self, task: str, model: Model, arguments: Mapping[str, Any], resources: ExitStack) -> None:
        self.task = task_named(task)
        self.model = model
        self._arguments = dict(arguments)
        self._resources = resources
        check_arguments(self.task, list(arguments))
        TaskOptions(**arguments)

    def __call__(self, inputs: Any, candidate_labels: Any = None, **arguments: Any) -> Any:
        """The result of a text, or a list of those of several.

        Args:
            inputs: a text or a list of texts; for text-generation, a chat or a list of chats, too.
            candidate_labels: as in `arguments`.
            arguments: see docs/tasks.md. They take the place of those that `pipeline` was given.

        Raises:
            BadRequest: the task does not take an argument, or a value is impossible. And what `Model` raises.
        """
        if candidate_labels is not None:
            arguments["candidate_labels"] = candidate_labels
        is_one = isinstance(inputs, str) or _is_chat(inputs)
        found = list(self.iterate([inputs] if is_one else inputs, **arguments))
        if not is_one:
            return found
        is_bare = self.task in (GENERATION, FEATURES, ZERO_SHOT) or isinstance(found[0], list)
        return found[0] if is_bare else found

    def iterate(self, inputs: Iterable[Any], **arguments: Any) -> Iterator[Any]:
        """The results of many texts as they come, in their order: `batch_size` of them go through the ring together.

        Raises: as `__call__`.
        """
        given = {**self._arguments, **arguments}
        check_arguments(self.task, list(given))
        asked = TaskOptions(**given)
        performer = self._performer(asked, has_best_alone="top_k" not in given)
        waiting = iter(iterated("the texts", inputs, "a text or a list of texts"))
        while batch := list(islice(waiting, asked.batch_size or BATCH_SIZE)):
            for each in batch:
                _check(each, self.task)
            yield from performer.run(batch)

    def _performer(self, asked: TaskOptions, *, has_best_alone: bool) -> Performer:
        if self.task in (CLASSES, ZERO_SHOT):
            return Labelling(self.model, self.task, asked, has_best_alone=has_best_alone)
        if self.task == FEATURES:
            return Extracting(self.model, asked)
        return writing(self.model, self.task, asked)

    def close(self) -> None:
        """End the cluster, or unload the model, that this was made with by name. Safe to call twice."""
        self._resources.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pipeline(
    task: str,
    model: str | Path | Model | None = None,
    *,
    devices: int | None = None,
    cluster: Cluster | RunningCluster | str | Path | None = None,
    load: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Pipeline:
    """A task, as transformers' `pipeline` has it.

    Args:
        task: summarization, text-classification, translation, feature-extraction, zero-shot-classification or
            text-generation.
        model: what `Cluster.load` takes, or a `Model` that is loaded; None: what a running cluster holds.
        devices: so many local ones are started; by itself 3.
        cluster: a cluster of yours, or where `Cluster.connect` finds one.
        load: options of `Cluster.load`, such as {"dtype": "float32"}.
        arguments: of the task, for all calls; see docs/tasks.md.

    Raises:
        BadRequest: there is no such task or argument, or model and cluster do not go together.
        ShardnetError: what `Cluster.local`, `Cluster.connect` and `Cluster.load` raise.
    """
    check_arguments(task_named(task), list(arguments))
    TaskOptions(**arguments)
    with ExitStack() as resources:
        loaded = model if isinstance(model, Model) else _loaded(model, devices, cluster, load or {}, resources)
        return Pipeline(task, loaded, arguments, resources.pop_all())


def _loaded(
    model: str | Path | None,
    devices: int | None,
    cluster: Cluster | RunningCluster | str | Path | None,
    load: Mapping[str, Any],
    resources: ExitStack,
) -> Model:
    if devices is not None and cluster is not None:
        raise BadRequest("devices starts local devices, cluster uses running ones; leave one of them out.")
    if model is None and cluster is None:
        raise BadRequest("name a model, or a cluster that holds one.")
    if isinstance(cluster, (Cluster, RunningCluster)):
        found = cluster
    else:
        found = Cluster.local(3 if devices is None else devices) if cluster is None else Cluster.connect(cluster)
        resources.callback(found.close)
    if model is not None:
        return resources.enter_context(found.load(model, **load))
    if not isinstance(found, RunningCluster):
        raise BadRequest("name a model: this cluster has none that it was started with.")
    return found.model


def _is_chat(inputs: Any) -> bool:
    return isinstance(inputs, Sequence) and bool(inputs) and isinstance(inputs[0], Mapping)


def _check(each: Any, task: str) -> None:
    """
    Raises:
        BadRequest: it is none that the task takes.
    """
    if task == GENERATION and _is_chat(each):
        return
    if not isinstance(each, str):
        raise BadRequest(f"{task} takes a text or a list of texts, but one is {quoted(each)}.")
    check_text("a text", each)
    if not each.strip():
        raise BadRequest(f"a text for {task} is empty. Leave it out.")
