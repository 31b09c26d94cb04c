"""How a model is put on devices: what `Cluster.load` may be asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any

from shardnet.checks import whole_number
from shardnet.codecs.names import AUTO, CODECS
from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.options import Made, Meaning, Number, OneOf, Options, Whole
from shardnet.plan import DTYPES
from shardnet.planner.names import OBJECTIVES, PLACEMENTS, SPREAD
from shardnet.policy.succession import STANDBY, WARM
from shardnet.progress import Progress
from shardnet.quantised import schemes
from shardnet.quantised.kv_names import AUTO as KV_AUTO
from shardnet.quantised.kv_names import KV_DTYPES
from shardnet.timeline.events import Event

_MODEL = "The model"
_DEVICES = "Devices"


def split_of(split: Any) -> tuple[int, ...]:
    """Units for each device, as the caller wrote them down.

    Raises:
        BadRequest: it is no list of whole numbers.
    """
    if isinstance(split, str) or not isinstance(split, Iterable):
        raise BadRequest(f"the split must be a list of units for each device, but is {quoted(split)}.")
    return tuple(whole_number("units of a device in the split", count, least=0) for count in split)


def folder_of(cache_dir: Any) -> str | Path | None:
    """
    Raises:
        BadRequest: it names no folder.
    """
    if not isinstance(cache_dir, (str, Path, NoneType)):
        raise BadRequest(f"cache_dir is a folder, but this is {quoted(cache_dir)}.")
    return cache_dir


def quality_of(quality: Any) -> str | None:
    """The loss that is allowed, as it was written down: "1%" and "0.01" are the same.

    Raises:
        BadRequest: it is none, or 1, by which one percent is meant and not 100.
    """
    text = None if quality is None else str(quality).strip()
    try:
        is_loss = text is None or 0 <= loss_of(text) < 1 or (loss_of(text) == 1 and text.endswith("%"))
    except ValueError:
        is_loss = False
    if not is_loss:
        raise BadRequest(
            "quality is how much more perplexity is allowed, such as 1%, from 0% to 100%, with the sign from 1 on, but "
            f"is {quoted(quality)}.",
            option="quality",
        )
    return text


def loss_of(quality: str) -> float:
    """The same as a number: 0.01 is one percent."""
    return float(quality.removesuffix("%")) / (100 if quality.endswith("%") else 1)


def device_of(name: Any) -> str | None:
    """
    Raises:
        BadRequest: no device is called so.
    """
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise BadRequest(f"private_to is the name of a device, but this is {quoted(name)}.", option="private_to")
    return name


@dataclass(frozen=True, kw_only=True)
class LoadOptions(Options):
    """What `Cluster.load` may be asked for: `cluster.load(model, **options)`. Impossible values raise `BadRequest`."""

    dtype: Annotated[
        str,
        OneOf(DTYPES),
        Meaning(
            "What a model computes in: float32, bfloat16 or float16.",
            about='what it computes in: "float32", "bfloat16" or "float16".',
            panel=_MODEL,
        ),
    ] = "bfloat16"
    weights: Annotated[
        str,
        OneOf(schemes.SCHEMES),
        Meaning(
            "How weights are held: int4 (coarser: int4-g64, int4-g128; symmetric: int4-sym), int8, w8a8 (activations "
            "in 8 bits, too), float32, bfloat16 or float16, in which it computes then. auto: with bfloat16 in the few "
            "bits of a .gguf file or of shardnet quantise, else as --dtype says.",
            about='how weights are held: "int4" (in coarser groups "int4-g64" and "int4-g128", symmetric "int4-sym"), '
            '"int8", "w8a8" (what they multiply is rounded to 8 bits, too), "float32", "bfloat16" or "float16", which '
            'is what it computes in then; "auto" keeps the few bits of a .gguf file, or of a checkpoint of '
            "`Cluster.quantise`, where it computes in bfloat16, and takes `dtype` otherwise.",
            panel=_MODEL,
        ),
    ] = schemes.AUTO
    quality: Annotated[
        str | None,
        Made(quality_of),
        Meaning(
            "With weights auto: hold units in 16, 8 or 4 bits, whatever makes the plan fast, and lose so much at most, "
            "such as 1% more perplexity. What few bits cost a model is measured once, by shardnet quality.",
            about='with weights "auto", units of a model in 16 bits are held in 16, 8 or 4, whatever makes the plan '
            "fast, as long as its perplexity is predicted to grow by no more than this, such as "
            '`"1%"`. `shardnet quality` measures once what few bits cost a model.',
            panel=_MODEL,
            metavar="LOSS",
        ),
    ] = None
    kv_dtype: Annotated[
        str,
        OneOf(KV_DTYPES),
        Meaning(
            "What keys and values are kept in: int8 takes half of 16 bits, so that twice as many tokens have room. "
            "auto: as --dtype says.",
            about='what keys and values of conversations are kept in: "int8" rounds each head of each token to 8 bits '
            'with a scale and a middle of its own, and takes about half of 16 bits; "auto" is `dtype`.',
            panel=_MODEL,
        ),
    ] = KV_AUTO
    wire: Annotated[
        str | None,
        OneOf((AUTO, *CODECS)),
        Meaning(
            "What hidden states travel in between devices: a dtype, or int8 or fp8, which take half of 16 bits. auto: "
            "int8 over links that are slow for prompts.",
            about="what hidden states travel in between devices: a dtype, `int8` in groups of 32, or `fp8`; None takes "
            "`dtype`; `auto` takes a smaller one for links on which prompts gain by it. With a smaller one the text "
            "depends on the split, as what travels is rounded.",
            panel=_MODEL,
        ),
    ] = None
    placement: Annotated[
        str,
        OneOf(PLACEMENTS),
        Meaning(
            "spread: all devices. auto: the best plan, which leaves out what does not help. Or a method of "
            "shardnet plan.",
            about='"spread" uses every device and makes the slowest stage fast; "auto" finds the best plan, which '
            "leaves out devices that do not help; or another method of `shardnet.planner`. Both go by profiles of "
            "devices and links, which are measured at the first load of a model and then reused.",
            panel=_DEVICES,
        ),
    ] = SPREAD
    objective: Annotated[
        str,
        OneOf(OBJECTIVES),
        Meaning(
            "Of auto: latency, throughput or energy.",
            about='of "auto": "latency", "throughput" with `in_flight` sessions under way, or "energy".',
            panel=_DEVICES,
        ),
    ] = "latency"
    in_flight: Annotated[
        int,
        Whole(1),
        Meaning(
            "Sessions under way at once: auto plans for them, and rates are predicted.",
            about='sessions under way at once, for which "auto" makes the plan and the rate is predicted.',
            panel=_DEVICES,
        ),
    ] = 1
    split: Annotated[
        Sequence[int] | None,
        Made(split_of),
        Meaning(
            "Units of each device, by hand, such as 10,10,12.",
            about="units for each device, in the order of `devices`: a placement by hand, without profiles.",
            panel=_DEVICES,
            metavar="N,N,...",
        ),
    ] = None
    context_tokens: Annotated[
        int | None,
        Whole(1),
        Meaning(
            "Tokens that prompt and answer may have together.",
            about="the longest session; None takes the model's own limit.",
            flag="--context",
            panel=_MODEL,
        ),
    ] = None
    private_to: Annotated[
        str | None,
        Made(device_of),
        Meaning(
            "Keep the text on this device: it holds embedding and head, and what others get is no text.",
            about="a device that is to hold embedding and head, so that neither prompts nor answers reach another one "
            'as text or as ids; the model ends with it. For the placement "auto".',
            panel=_DEVICES,
            metavar="DEVICE",
        ),
    ] = None
    kv_memory_bytes: Annotated[
        int | None,
        Whole(1),
        Meaning(about="memory for KV caches on each device; None takes what the device can spare."),
    ] = None
    standby: Annotated[
        str,
        OneOf(STANDBY),
        Meaning(
            "warm: devices keep each other's units ready for a loss, where memory is left. hot: and what they know of "
            "conversations. cold: all is loaded then. none: nobody takes over.",
            about='"warm": some seconds after the load devices begin to load what they would take over from each '
            'other, as far as memory is left; "hot": they copy keys and values of sessions, too, while they have '
            'nothing else to do; "cold": all is loaded and computed when a device is lost; "none": nobody takes over, '
            "and the loss of a device ends the model.",
            panel=_DEVICES,
        ),
    ] = WARM
    standby_gib: Annotated[
        float | None,
        Number("above 0", 0, above=True),
        Meaning(
            "Memory of each device that this may take.",
            about="what each device may give for that; None gives half of what the plan leaves free.",
            panel=_DEVICES,
        ),
    ] = None
    rebalance: Annotated[
        bool,
        Made(bool),
        Meaning(
            "Move layers while the model runs, where a device became slower or faster and another placement pays.",
            about="whether layers move while the model runs, where devices became slower or faster and another "
            "placement is predicted to be worth it. A placement by hand stays as it is.",
            flag="--rebalance/--no-rebalance",
            panel=_DEVICES,
        ),
    ] = True
    share_prefixes: Annotated[
        bool,
        Made(bool),
        Meaning(
            "Begin an answer with what devices still have of another one, as far as the prompts are the same.",
            about="whether an answer begins with the keys and values that devices have of another one, under way or "
            "ended lately, as far as the prompts begin with the same tokens: the second turn of a chat computes what "
            "is new in it. What has ended stays on the devices for that until its memory is needed.",
            flag="--share-prefixes/--no-share-prefixes",
            panel=_MODEL,
        ),
    ] = True
    prefill_chunk_tokens: Annotated[
        int,
        Whole(1),
        Meaning(
            about="prompts go through the ring in chunks of this size at most. One that has the ring to itself goes in "
            "smaller ones where its first token comes earlier by that."
        ),
    ] = 128
    record_spans: Annotated[bool, Made(bool), Meaning(about="keep spans for `Model.write_profile`.")] = False
    cache_dir: Annotated[
        str | Path | None,
        Made(folder_of),
        Meaning(
            about="where converted models and links are kept; None takes the folder of SHARDNET_CACHE, or "
            "~/.cache/shardnet. Devices keep their own profiles, in SHARDNET_CACHE as it was when they were started, "
            "or the same default."
        ),
    ] = None
    on_event: Annotated[
        Callable[[Event], object] | None,
        Meaning(
            about="called with each `Event` of `Model.events` as it happens, from the thread on which it does: devices "
            "that are lost, and who takes over."
        ),
    ] = None
    progress: Annotated[Progress | None, Meaning(about="told how far it is; None shows a bar on a terminal.")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights in DTYPES:
            object.__setattr__(self, "dtype", self.weights)
        if self.quality is not None:
            self._require_choice()
        if self.split is not None:
            self._refuse(
                ("placement", "objective", "in_flight", "private_to"),
                "a split, which is a placement by hand. Leave one of them out.",
            )
            if self.wire == AUTO:
                raise BadRequest(
                    "wire auto goes by how fast links are, which is not measured for a split, a placement by hand. Say "
                    "which codec is to be used, or leave the split out.",
                    option="wire",
                )
        elif self.placement == SPREAD:
            self._refuse(("objective", "private_to"), f"the placement {SPREAD}, which uses every device. Choose auto.")

    def _require_choice(self) -> None:
        """
        Raises:
            BadRequest: bits are to be chosen, and there is nothing to choose.
        """
        if self.weights != schemes.AUTO or self.dtype != schemes.FAST_DTYPE:
            raise BadRequest(
                f"quality chooses the bits of weights: leave it out, or take weights {schemes.AUTO} and dtype "
                f"{schemes.FAST_DTYPE}.",
                option="quality",
            )
        if self.split is not None:
            raise BadRequest(
                "quality goes by how fast devices are, which is not measured for a split, a placement by hand. Leave "
                "one of them out.",
                option="quality",
            )

    def _refuse(self, names: Sequence[str], what: str) -> None:
        """
        Raises:
            BadRequest: something was asked that would be passed over in silence.
        """
        for name in names:
            if self[name] != getattr(LoadOptions, name):
                raise BadRequest(f"{name} {self[name]} has no effect on {what}", option=name)
