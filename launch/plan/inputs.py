"""What `shardnet plan` and `shardnet simulate` are asked about: a problem file, or a model on a cluster."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from shardnet.cluster.load_options import LoadOptions
from shardnet.codecs.names import AUTO
from shardnet.described.clusters import PaperCluster, with_bandwidth, with_source
from shardnet.described.estimates import Estimate, Workload, estimate_mixed, estimate_problem
from shardnet.described.model_sizes import ModelConfig
from shardnet.errors import BadConfiguration, BadRequest, UsageError
from shardnet.foreign.quoting import quoted, shortened
from shardnet.launch.files.config_files import load_cluster, load_model_config
from shardnet.launch.files.stored_bits import stored_scheme
from shardnet.launch.plan.options import ProblemOptions
from shardnet.plan import DTYPES, Plan
from shardnet.planner.codecs import Offer, codecs_of, offers_for, sent_in
from shardnet.planner.costs import with_costs
from shardnet.planner.problem import Problem
from shardnet.quantised.kv_names import AUTO as KV_AUTO
from shardnet.quantised.schemes import AUTO as AS_STORED
from shardnet.quantised.schemes import FAST_DTYPE
from shardnet.simulator.what_if import halved_weights

DEFAULT_CONTEXT = 1024
DEFAULT_DTYPE = "float16"
CHUNK_TOKENS = 128
"""Of a prompt, at a time: what a cluster does unless it is told otherwise."""

STORED_NOTE = "Weights are about as its file has them; --weights bfloat16 unpacks them."


@dataclass(frozen=True)
class Asked:
    """The problem, and what else is known of it."""

    problem: Problem
    title: str
    notes: tuple[str, ...] = ()
    fewer_bits: tuple[str, Problem] | None = None
    """What it is called and the problem with smaller weights, for --explain."""
    load_bytes_per_s: Mapping[str, float] = field(default_factory=dict)
    offers: tuple[Offer, ...] = ()
    """Codecs of which each link takes one."""
    held_as: Callable[[Sequence[str]], Estimate] | None = None
    """The same with each unit in a scheme of its own; None of a problem file, which has no bits."""
    unit_weights: tuple[str, ...] = ()
    """Those that were chosen, where they were."""
    predicted_loss: float | None = None

    codecs: Mapping[int, str] = field(default_factory=dict)
    """What they take, by the last unit before each; see `sent_as_pays`."""

    def in_schemes(self, unit_weights: Sequence[str], predicted_loss: float | None = None) -> Asked:
        """The same with each unit in a scheme of its own.

        Raises:
            UsageError: they are not those of its units, or a problem file says what units are like.
        """
        if self.held_as is None:
            raise UsageError("A problem file says what its units take: leave unit_weights out of the plan's.")
        found = self.held_as(unit_weights)
        notes = found.notes
        if predicted_loss is not None:
            notes = (*notes, f"Predicted loss: {predicted_loss:.2%} more perplexity by weights of few bits.")
        return replace(
            self,
            problem=found.problem,
            notes=notes,
            unit_weights=tuple(unit_weights),
            predicted_loss=predicted_loss,
        )

    def shown(self, plan: Plan) -> Plan:
        """A plan that says in how many bits units are, where that was chosen."""
        return replace(plan, unit_weights=self.unit_weights, predicted_loss=self.predicted_loss)

    def sent_as_pays(self, plan: Plan, chunk_tokens: int, in_flight: int) -> tuple[Asked, Plan]:
        """The same with what hidden states travel in where a plan cuts, if each link is to have a codec of its own, and
        what the plan costs then.
        """
        if not self.offers:
            return self, plan
        own = self.offers[0].codec
        codecs = codecs_of(self.problem, plan.stages, self.offers, chunk_tokens)
        notes = [f"What comes out of unit {unit} travels as {codec}." for unit, codec in codecs.items() if codec != own]
        none_pays = f"On no link a smaller codec than {own} pays."
        problem = sent_in(self.problem, codecs, self.offers)
        asked = replace(self, problem=problem, notes=(*self.notes, *(notes or [none_pays])), codecs=codecs)
        return asked, with_costs(plan, problem, in_flight)


def read_problem(
    options: ProblemOptions, in_flight: int, run_tokens: int = 0, chunk_tokens: int = CHUNK_TOKENS
) -> Asked:
    """Read and check everything that the options name.

    Args:
        in_flight: sessions under way at once; without --sessions, KV memory is kept for so many.
        run_tokens: of prompt and answer together; without --context, KV memory is kept for at least so many.
        chunk_tokens: of a prompt, at a time.

    Raises:
        UsageError: options that do not go together, or what the files say is impossible.
    """
    if options.problem is not None:
        return _from_problem_file(options, options.problem, run_tokens)
    if options.model is None or options.cluster is None:
        raise UsageError(
            "Say what to place: --problem FILE, or --model M and --cluster FILE (see shardnet plan --help)."
        )
    return _from_model(options, options.model, options.cluster, in_flight, run_tokens, chunk_tokens)


def _from_problem_file(options: ProblemOptions, path: Path, run_tokens: int) -> Asked:
    given = {
        "--model": options.model,
        "--cluster": options.cluster,
        "--dtype": options.dtype,
        "--wire": options.wire,
        "--kv-dtype": options.kv_dtype,
        "--weights": options.weights,
        "--quality": options.quality,
        "--bits": options.bits,
        "--bandwidth": options.bandwidth,
    }
    extra = [name for name, value in given.items() if value is not None]
    if extra:
        raise UsageError(f"{extra[0]} does not go with --problem, whose file says all of that; leave one of them out.")
    problem = Problem.from_file(path)
    context = max(problem.context_tokens, run_tokens) if options.context is None else options.context
    changes: dict[str, Any] = {
        "context_tokens": context,
        "sessions": options.sessions,
        "source": options.source,
        "pin_embedding": options.pin_embedding,
        "pin_head": options.pin_head,
    }
    problem = replace(problem, **{key: value for key, value in changes.items() if value is not None})
    return Asked(
        problem, shortened(path.name), fewer_bits=("half the bits of the weights (rough)", halved_weights(problem))
    )


def _from_model(
    options: ProblemOptions,
    model_name: str,
    cluster_name: str,
    in_flight: int,
    run_tokens: int,
    chunk_tokens: int,
) -> Asked:
    model = load_model_config(model_name)
    cluster = _changed(load_cluster(cluster_name), options)
    sessions = in_flight if options.sessions is None else options.sessions
    usual = max(min(DEFAULT_CONTEXT, model.context_tokens), run_tokens)
    is_auto = options.wire == AUTO
    dtype, weights = _numbers(options)
    is_unsaid = _says_nothing_of_weights(options)
    if is_unsaid:
        weights = stored_scheme(model_name)
    workload = Workload(
        dtype,
        options.bits,
        usual if options.context is None else options.context,
        sessions,
        prefill_chunk=chunk_tokens,
        wire=None if is_auto else options.wire,
        kv_dtype=options.kv_dtype or KV_AUTO,
        weights=weights,
    )
    estimate = estimate_problem(model, cluster, workload)
    return Asked(
        estimate.problem,
        f"{model.name} on {cluster.name}",
        (*estimate.notes, STORED_NOTE) if is_unsaid and weights != AS_STORED else estimate.notes,
        _with_fewer_bits(model, cluster, workload),
        estimate.load_bytes_per_s,
        offers=offers_for(dtype, model.hidden) if is_auto else (),
        held_as=partial(estimate_mixed, model, cluster, workload),
    )


def _says_nothing_of_weights(options: ProblemOptions) -> bool:
    """Whether they are held as they are stored."""
    is_auto = options.weights in (None, AS_STORED) and options.bits is None and options.quality is None
    return is_auto and options.dtype in (None, FAST_DTYPE)


def _numbers(options: ProblemOptions) -> tuple[str, str]:
    """What is computed in, and the scheme of weights.

    Raises:
        UsageError: two options say it, or quality is to choose what another one says.
    """
    weights = options.weights or AS_STORED
    if options.bits is not None and (options.quality or weights != AS_STORED):
        other = "--quality chooses" if options.quality else "--weights says"
        raise UsageError(f"{other} how weights are held, and so does --bits; leave one of them out.")
    if options.quality is not None:
        try:
            asked = LoadOptions(weights=weights, dtype=options.dtype or FAST_DTYPE, quality=options.quality)
        except BadRequest as error:
            raise UsageError(f"--{error}") from error
        return asked.dtype, asked.weights
    if weights in DTYPES:
        return weights, AS_STORED
    return options.dtype or DEFAULT_DTYPE, weights


def _changed(cluster: PaperCluster, options: ProblemOptions) -> PaperCluster:
    if options.source is not None:
        cluster = with_source(cluster, options.source)
    for text in options.bandwidth or ():
        pair, _, mbit = text.partition("=")
        first, _, second = pair.partition(":")
        try:
            mbit_per_s = float(mbit)
        except ValueError:
            mbit_per_s = math.nan
        if not (first and second) or math.isnan(mbit_per_s):
            raise UsageError(f"cannot read --bandwidth {quoted(text)}; write it like phone:cloud=10 (in Mbit/s).")
        cluster = with_bandwidth(cluster, first, second, mbit_per_s)
    if options.pin_embedding is not None:
        cluster = replace(cluster, pin_embedding=options.pin_embedding)
    if options.pin_head is not None:
        cluster = replace(cluster, pin_head=options.pin_head)
    return cluster


def _with_fewer_bits(model: ModelConfig, cluster: PaperCluster, workload: Workload) -> tuple[str, Problem] | None:
    smaller = {32: 16, 16: 8, 8: 4}.get(workload.weight_bits)
    if smaller is None:
        return None
    workload = replace(workload, weights=AS_STORED)
    try:
        return f"weights of {smaller} bits", estimate_problem(model, cluster, replace(workload, bits=smaller)).problem
    except BadConfiguration:
        return None
