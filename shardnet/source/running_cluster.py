"""A cluster that another process coordinates, as a source sees it. Made by `Cluster.connect` where one runs."""

from __future__ import annotations

import logging
import secrets
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from shardnet.checks import whole_number
from shardnet.cluster.load_options import LoadOptions
from shardnet.cluster.model import Model
from shardnet.errors import BadRequest, ClusterError, JoinFailed
from shardnet.foreign.plain_files import named_anywhere
from shardnet.foreign.quoting import counted, quoted
from shardnet.loader import Authored, find_copy, read_authored, read_tokenizer
from shardnet.options import takes
from shardnet.process.cache_folder import cache_folder
from shardnet.process.forks import Birthplace
from shardnet.process.lasting import endpoint_in, require_running
from shardnet.progress import Progress, shown
from shardnet.quantised.schemes import AUTO
from shardnet.session.likelihoods import Likelihoods
from shardnet.session.options import GenerationOptions
from shardnet.session.stream import Generation, Stream
from shardnet.session.text import TextStream
from shardnet.shipping.texts import write_texts
from shardnet.source.connection import AWAY_S, Connection
from shardnet.source.listening import Listening
from shardnet.source.remote_deployment import TICKET_BITS, RemoteDeployment
from shardnet.speculation.guesser import DRAFT
from shardnet.transport import RpcTransport
from shardnet.transport.names import SOURCE_MARK
from shardnet.transport.source_messages import BrokenOff, ClusterStatus, LoadState, ModelInfo

JOIN_S = 10.0
DEVICES_S = 60.0
"""How long a number of devices is waited for."""
ASK_S = 10.0
LOOK_AGAIN_S = 0.1
"""How often a load is looked at."""
NUMBER = "the number of an answer"
NOT_SENT = ("cache_dir", "on_event", "progress")
"""Options of a load that do not travel; those before the last are the coordinator's own affair."""
_log = logging.getLogger(__name__)


class RunningCluster:
    """A cluster that outlives this process, and what it has loaded. A context manager: leaving it ends only the answers
    that were asked for here.

    Its devices are those that have joined; `load` places a model over all of them, for every source.
    """

    def __init__(self, connection: Connection, resources: ExitStack) -> None:
        """Use `Cluster.connect` instead."""
        self._connection = connection
        self._listening = Listening(connection.transport)
        self._models: dict[int, tuple[Model, RemoteDeployment]] = {}
        """The present one as it was handed out, and those before it that still answer, by their numbers."""
        self._making = threading.Lock()
        self._is_over = threading.Event()
        self._birthplace = Birthplace("this cluster")
        self._resources = resources.pop_all()  # the caller's until it stands

    @classmethod
    def connect(
        cls, folder: Path, *, num_devices: int | None = None, progress: Progress | None = None
    ) -> RunningCluster:
        """Be a source of the cluster whose state folder this is. See `Cluster.connect`.

        Raises:
            JoinFailed: none runs there, or it does not answer.
            UsageError: the folder is somebody else's, or this process holds a cluster already.
        """
        require_running(folder)
        name = f"{SOURCE_MARK}source-{secrets.token_hex(4)}"
        with ExitStack() as resources:
            transport = RpcTransport.join(endpoint_in(folder), name, timeout_s=JOIN_S, look_again_s=AWAY_S)
            resources.enter_context(transport)
            cluster = resources.enter_context(cls(Connection(transport), resources))
            transport.on_struck_off(cluster._is_over.set)
            transport.on_door(cluster._hear_of_door)
            if num_devices is not None:
                cluster._wait_for(whole_number("the number of devices", num_devices, least=1), progress)
            resources.pop_all()
        return cluster

    @property
    def is_over(self) -> bool:
        """Whether this process is no source of it any more, for good: its coordinator was away for too long, or another
        cluster runs there by now.
        """
        return self._is_over.is_set()

    @property
    def devices(self) -> tuple[str, ...]:
        """Those that are there now."""
        return tuple(member.name for member in self.status().members)

    @property
    def model(self) -> Model:
        """The model that is loaded, the same as long as it is; waits for one that is being loaded.

        Raises:
            BadRequest: there is none.
            ClusterError: the coordinator does not answer.
        """
        return self._present()[0]

    def model_now(self) -> Model:
        """The same without waiting for one that is being loaded. Raises as `model`."""
        return self._model_of(self._ask("model_info"))[0]

    @property
    def broken_off(self) -> tuple[BrokenOff, ...]:
        """The answers that broke off through no fault of theirs, and can be resumed: their model was lost with too many
        devices or unloaded, the cluster was ended, or who asked for them is gone.

        Each has a `number`, the `model` that it is of, `prompt_tokens`, `num_tokens` that are known of at most
        `max_new_tokens`, its `sampling` and `stop`, and when it broke off (`at_s`, since 1970).
        """
        found: tuple[BrokenOff, ...] = self._ask("broken_off")
        return found

    def resume(
        self,
        number: int | None = None,
        *,
        draft: str | None = None,
        draft_weights: str = AUTO,
        draft_threads: int = 1,
    ) -> Stream:
        """Let an answer go on that broke off, with the options that it was asked with. The model that it is of must be
        loaded.

        The stream gives it from its first token on, and the tokens are those that an undisturbed answer has (in half
        precision, those after the break to rounding). When all of it was read, it is forgotten here; what is stopped
        before, or breaks off again, can be resumed again.

        Args:
            number: of the answer, as `broken_off` has it; not needed where there is only one.
            draft, draft_weights, draft_threads: a small model that guesses here from now on, as for `Model.stream`.

        Raises:
            BadRequest: there is none of that number, it is being resumed, or it is of another model.
            ModelNotFound, UnsupportedModel, DamagedCheckpoint: of the draft.
            KVMemorySpent, ClusterError: as `Model.stream`.
        """
        asked = GenerationOptions(draft=draft, draft_weights=draft_weights, draft_threads=draft_threads)
        broken = self._one_of_broken_off(None if number is None else whole_number(NUMBER, number, least=1))
        model, remote = self._present()
        guessing = model.draft_for(asked)
        session = remote.sessions.resume(broken, model.eos_ids, has_draft=guessing is not None)
        if guessing is not None:
            guessing.go_ahead(session, remote.sessions.prompt_of(session))
        elif broken.sampling.speculate == DRAFT:
            _log.warning(
                "answer %d was asked for with a draft, and goes on without one: none was named.", broken.number
            )
        likelihoods = None
        if broken.sampling.logprobs >= 0:
            likelihoods = Likelihoods(session, remote.sessions.prompt_of(session), remote.sessions.score)
        text = TextStream(model.tokenizer, broken.stop)

        def end(result: Generation) -> None:
            if result.finish_reason != "cancelled":
                with suppress(ClusterError):  # then it stays there, and can be read again
                    self._ask("forget_session", broken.number)

        return Stream(session, text, end, broken.num_tokens, likelihoods)

    def forget(self, number: int) -> None:
        """Remove an answer that broke off, prompt and all.

        Raises:
            BadRequest: there is none of that number.
            ClusterError: it cannot be removed from the disk.
        """
        self._ask("forget_session", self._one_of_broken_off(whole_number(NUMBER, number, least=1)).number)

    def status(self) -> ClusterStatus:
        """Who is there, what is loaded, who talks.

        Raises:
            ClusterError: the coordinator does not answer. So for all that follows.
        """
        status: ClusterStatus = self._ask("cluster_status")
        return status

    @takes(LoadOptions)
    def load(self, model: str | Path, **options: Any) -> Model:
        """Have a model loaded over all devices, in place of the one that is there.

        Args:
            model: a folder in Hugging Face layout, a `.gguf` file, a hub id, or the name of an embedded model.

        Raises:
            ModelNotFound, UnsupportedModel, DamagedCheckpoint, BadRequest, DoesNotFit, DeviceLost.
        """
        asked = LoadOptions(**options)
        if not isinstance(model, (str, Path)):
            raise BadRequest(f"a model is a path or a hub id, but this is {quoted(model)}.")
        for name in NOT_SENT[:-1]:
            if asked[name] is not None:
                raise BadRequest(
                    f"{name} is up to the process that coordinates this cluster. Leave it out.", option=name
                )
        named = named_anywhere(model)
        keywords = {name: asked[name] for name in asked.keys() if name not in NOT_SENT}  # noqa: SIM118
        ticket = _ticket()
        with shown(asked.progress) as told:
            while not self._look_at_load(ticket, named, keywords, told):
                time.sleep(LOOK_AGAIN_S)
        return self.model

    def unload(self) -> None:
        """Have the model unloaded from all devices."""
        self._ask("unload", _ticket())

    def leave(self, device: str) -> str:
        """Tell a device to leave. Others take over what it holds before, where they can.

        Returns:
            In words, who has taken over what, or that nobody could; empty where it held nothing.

        Raises:
            BadRequest: there is none of that name.
        """
        return self._tell_device("leave", device)

    def pause(self, device: str) -> str:
        """Have a device hold nothing, and stay in the cluster, until `unpause`. Others take over what it holds first.

        Returns:
            In words, who has taken over what, or that nobody could; empty where it held nothing.

        Raises:
            BadRequest: there is none of that name.
        """
        return self._tell_device("pause_device", device)

    def unpause(self, device: str) -> str:
        """Let a device that was paused be used again.

        Returns:
            In words, why it pauses all the same (its battery is low, say); empty where it does not.

        Raises:
            BadRequest: there is none of that name.
        """
        return self._tell_device("unpause_device", device)

    def remove(self, device: str) -> None:
        """Strike off a device that does not answer.

        Raises:
            BadRequest: there is none of that name, or it does answer.
        """
        self._ask("remove", _ticket(), device)

    def close(self) -> None:
        """End the sessions that were started here, and be a source no longer. Safe to call twice."""
        if not self._birthplace.is_here:
            return
        try:
            for model, _ in self._models.values():
                model.close()
            self._connection.close()
        finally:
            self._resources.close()

    def __enter__(self) -> RunningCluster:
        self._birthplace.check()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hear_of_door(self, event: str) -> None:
        if event == "given up":
            self._is_over.set()

    def _ask(self, endpoint: str, *args: Any) -> Any:
        self._birthplace.check()
        return self._connection.ask(endpoint, *args, timeout_s=ASK_S)

    def _tell_device(self, endpoint: str, device: str) -> str:
        told: str = self._ask(endpoint, _ticket(), device)
        return told

    def _present(self) -> tuple[Model, RemoteDeployment]:
        while True:
            while self.status().loading:
                time.sleep(LOOK_AGAIN_S)
            try:
                return self._model_of(self._ask("model_info"))
            except BadRequest:
                if not self.status().loading:
                    raise

    def _one_of_broken_off(self, number: int | None) -> BrokenOff:
        """
        Raises:
            BadRequest: there is none, or not only one.
        """
        found = {each.number: each for each in self.broken_off}
        shown = ", ".join(map(str, found))
        if number is None and len(found) > 1:
            raise BadRequest(f"several answers broke off: {shown}. Name one.")
        if not found:
            raise BadRequest("no answer of this cluster broke off, or all are being resumed.")
        if number is not None and number not in found:
            raise BadRequest(
                f"no answer that broke off has the number {quoted(number)}, or it is being resumed. There are {shown}."
            )
        return found[next(iter(found)) if number is None else number]

    def _look_at_load(self, ticket: int, model: str, keywords: dict[str, Any], told: Progress) -> bool:
        """Begin a load, or look how far it is. Whether it is over."""
        state: LoadState = self._ask("load", ticket, model, keywords)
        for what, done, total in state.progress:
            told(what, done, total)
        return state.is_over

    def _model_of(self, info: ModelInfo) -> tuple[Model, RemoteDeployment]:
        with self._making:
            open_ones = {number: each for number, each in self._models.items() if not each[1].sessions.is_closed}
            present = open_ones.get(info.model) or self._new_model(info)
            before = {number: each for number, each in open_ones.items() if each[1].sessions.are_open}
            self._models = {**before, info.model: present}
            return present

    def _new_model(self, info: ModelInfo) -> tuple[Model, RemoteDeployment]:
        tokenizer, authored = self._texts_of(info.checkpoint)
        deployment = RemoteDeployment(self._connection, self._listening, info)
        model = Model(
            deployment,
            info.profile,
            tokenizer,
            checkpoint=info.checkpoint,
            eos_ids=info.eos_ids,
            context_tokens=info.context_tokens,
            authored=authored,
        )
        return model, deployment

    def _texts_of(self, checkpoint: str) -> tuple[Any, Authored]:
        """The tokenizer, and what else its authors have written. As this machine's copy has them, or else as the
        coordinator sends them, for this time: no name stands for them.
        """
        copy = find_copy(checkpoint, cache_folder())
        if copy is not None:
            return read_tokenizer(copy.folder), read_authored(copy.folder)
        with tempfile.TemporaryDirectory(prefix="shardnet-tokenizer-") as folder:
            write_texts(self._ask("model_texts", checkpoint), Path(folder))
            return read_tokenizer(Path(folder)), read_authored(Path(folder))

    def _wait_for(self, num_devices: int, progress: Progress | None) -> None:
        deadline_s = time.monotonic() + DEVICES_S
        with shown(progress) as told:
            while (present := len(self.devices)) < num_devices:
                told("waiting for devices", present, num_devices)
                if time.monotonic() > deadline_s:
                    raise JoinFailed(
                        f"{counted(num_devices, 'devices')} should be there, but after {DEVICES_S:.0f} s there are "
                        f"only {present}. Let another one join: shardnet join"
                    )
                time.sleep(LOOK_AGAIN_S)
            told("waiting for devices", num_devices, num_devices)


def _ticket() -> int:
    return secrets.randbits(TICKET_BITS)
