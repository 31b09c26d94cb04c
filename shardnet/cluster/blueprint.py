"""What the stages of a deployment are made from: those of its first ring, and those that take over from others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations

from shardnet.cluster.load_options import LoadOptions
from shardnet.cluster.placement import kept_bytes_per_token, kv_budgets, num_at_once, place, problem_of, room_of
from shardnet.codecs.names import AUTO, hidden_size_of
from shardnet.errors import DoesNotFit
from shardnet.loader import ModelFiles
from shardnet.models.plain_config import as_text
from shardnet.plan import PROFILED_TOKENS, DeviceProfile, Link, Plan, StagePlan
from shardnet.planner.chunks import Host, chunks_of, stage_times, units_read
from shardnet.planner.codecs import codec_for, offers_for
from shardnet.planner.problem import Problem
from shardnet.session.route import Ring
from shardnet.transport.holding_messages import Holding
from shardnet.transport.messages import RingId, RingStop, StageSpec

ASSUMED_BYTES_PER_S = 5e9
"""At which a device reads weights as it computes, where that was not measured, as for a placement by hand."""
ASSUMED_LINK_S, ASSUMED_LINK_BYTES_PER_S = 1e-3, 1e7


@dataclass(frozen=True)
class Blueprint:
    """How a model was placed, and what each of its stages is told."""

    source: str
    """The transport name of the coordinator."""
    files: ModelFiles
    options: LoadOptions
    deployment: int
    """The plan version of the first ring."""
    devices: tuple[DeviceProfile, ...]
    """As they were before anything was loaded."""
    links: tuple[Link, ...]
    """None where none were measured."""
    context_tokens: int
    keep_s: float = 0.0
    """How long devices keep the stages while the coordinator is not there."""
    codecs: tuple[tuple[int, str], ...] = ()
    """Of links that have one of their own: that of the first plan's cut behind each unit. It stays as long as the model
    is loaded, whoever holds the units: with another one, a text would not go on with its very own tokens."""

    def specs(self, ring_id: RingId, stages: Sequence[StagePlan], plan: Plan) -> list[StageSpec]:
        """What each device is told to load, and its place in the ring.

        Args:
            stages: those of the ring, in order; one device may have several.
            plan: the same placement, in which it has one.

        Raises:
            DoesNotFit: a device cannot hold its weights and the KV cache of one short session.
        """
        files, options, devices = self.files, self.options, self.devices
        budgets = kv_budgets(plan, files.profile, devices, options.kv_memory_bytes)
        budget_of = dict(zip((stage.device for stage in plan.stages), budgets, strict=True))
        num_groups, config = num_at_once(plan, devices), as_text(files.config)
        kernels_of = {device.name: device.kernels for device in devices}
        ring = tuple(
            RingStop(stage.device, stage.first_unit, stage.last_unit, self.codec_of(stage, plan)) for stage in stages
        )
        return [
            StageSpec(
                ring_id=ring_id,
                stage=index,
                ring=ring,
                source=self.source,
                checkpoint=files.copy.name,
                config=config,
                tensors=files.roots_of(stage.first_unit, stage.last_unit),
                dtype=options.dtype,
                holding=Holding(files.weights, files.profile.unit_weights, kernels_of[stage.device], options.kv_dtype),
                kv_budget_bytes=budget_of[stage.device],
                prefill_chunk_tokens=options.prefill_chunk_tokens,
                record_spans=options.record_spans,
                deployment=self.deployment,
                num_groups=num_groups,
                keep_s=self.keep_s,
            )
            for index, stage in enumerate(stages)
        ]

    def with_codecs_of(self, plan: Plan) -> Blueprint:
        """The same whose links have codecs of their own from this plan on, where that was asked for."""
        if self.options.wire != AUTO:
            return self
        return replace(self, codecs=tuple((stage.last_unit, self.codec_of(stage, plan)) for stage in plan.stages))

    def as_shown(self, plan: Plan, version: int) -> Plan:
        """A plan under its ring's version, that says in how many bits units are held, where they differ."""
        weights, loss = self.files.profile.unit_weights, self.files.profile.predicted_loss
        return replace(plan, version=version, unit_weights=weights, predicted_loss=loss)

    def codec_of(self, stage: StagePlan, plan: Plan) -> str:
        """In what a stage sends hidden states to the device that has the next unit in a plan."""
        options, cut = self.options, stage.last_unit
        if options.wire != AUTO:
            return options.wire or options.dtype
        link = self.link_between.get((stage.device, plan.device_of(cut + 1))) if cut + 1 < plan.num_units else None
        if link is None or cut in dict(self.codecs):
            return dict(self.codecs).get(cut, options.dtype)
        prefill_of = {device.name: self.with_times(device).prefill_unit_s_per_token for device in self.devices}
        chunk_tokens = options.prefill_chunk_tokens
        chunk_s = [
            chunk_tokens * sum(prefill_of[each.device][each.first_unit : each.last_unit + 1]) for each in plan.stages
        ]
        return codec_for(link, chunk_s, offers_for(options.dtype, hidden_size_of(self.files.profile)), chunk_tokens)

    def cut(self, ring: Ring, num_tokens: int) -> list[int]:
        """The sizes of the chunks in which a prompt goes through a ring that it has to itself."""
        profile_of = {device.name: device for device in self.devices}
        num_units = ring.stops[-1].last_unit + 1
        times, hosts = [], []
        for stop in ring.stops:
            profile, units = profile_of[stop.device], units_read(stop.first_unit, stop.last_unit, num_units)
            decode_s, prefill_s = self.with_times(profile).decode_unit_s, profile.prefill_unit_s_per_token
            one_s = sum(decode_s[unit] for unit in units)
            per_token_s = sum(prefill_s[unit] for unit in units) if profile.decode_unit_s else None
            times.append(stage_times(one_s, per_token_s, PROFILED_TOKENS))
            hosts.append(Host(profile.host, room_of(profile)))
        return chunks_of(num_tokens, times, self.options.prefill_chunk_tokens, hosts)

    def problem(self, absent: Collection[str], tokens: int) -> Problem:
        """The placement problem of the devices that are left, each with room for so many tokens.

        Raises:
            DoesNotFit: none is, or the one that the text is to stay on is not.
        """
        left = [device for device in self.devices if device.name not in absent]
        if not left:
            raise DoesNotFit("every device of this model is lost. Load it again on others.")
        return problem_of(
            self.files.profile,
            [self.with_times(device) for device in left],
            self._links_between([device.name for device in left]),
            context_tokens=tokens,
            kv_memory_bytes=self.options.kv_memory_bytes,
            private_to=self.options.private_to,
        )

    def has_room(self, plan: Plan, stages: Sequence[StagePlan], tokens: int) -> bool:
        """Whether what was set aside on each device is enough for so many tokens.

        Args:
            plan: the one in force: what comes to a device beside what it has there is a stage of its own at first.
        """
        aside_bytes, profile = self.options.kv_memory_bytes, self.files.profile
        if aside_bytes is None:  # all that is left is: `problem` sees to it
            return True
        held: Counter[str] = Counter()
        for stage in stages:
            num_stages = 1 if stage in plan.stages or stage.device not in plan.devices else 2
            units = profile.units[stage.first_unit : stage.last_unit + 1]
            held[stage.device] += sum(unit.kv_bytes_per_token for unit in units)
            held[stage.device] += num_stages * kept_bytes_per_token(profile)
        return tokens * max(held.values()) <= aside_bytes

    def can_change(self, before: Sequence[StagePlan], after: Sequence[StagePlan], tokens: int) -> bool:
        """Whether every device has room, until a change of plan is over, for what it gives away beside what it gets."""
        profile, aside_bytes = self.files.profile, self.options.kv_memory_bytes
        plan, target = Plan(tuple(before)), Plan(tuple(after))
        for device in self.devices:
            had, has = set(plan.units_on(device.name)), set(target.units_on(device.name))
            held = [profile.units[unit] for unit in had | has]
            num_stages = bool(had) + bool(has - had)
            kv_bytes = tokens * sum(unit.kv_bytes_per_token for unit in held)
            kv_bytes += tokens * num_stages * kept_bytes_per_token(profile)
            left_bytes = device.memory_bytes - sum(unit.weight_bytes for unit in held) if held else 0
            if kv_bytes > min(left_bytes, left_bytes if aside_bytes is None else aside_bytes):
                return False
        return True

    def spare_bytes(self, plan: Plan) -> dict[str, int]:
        """What each device may give to keep units ready for others: half of what the plan leaves free, at most."""
        options, units = self.options, self.files.profile.units
        held: Counter[str] = Counter()
        for stage in plan.stages:
            held[stage.device] += sum(unit.weight_bytes for unit in units[stage.first_unit : stage.last_unit + 1])
        spare = {}
        for device in self.devices:
            free_bytes = device.memory_bytes - held[device.name]
            most_bytes = (free_bytes - options.kv_memory_bytes) if options.kv_memory_bytes else free_bytes // 2
            if options.standby_gib is not None:
                most_bytes = min(most_bytes, int(options.standby_gib * 2**30))
            spare[device.name] = max(most_bytes, 0)
        return spare

    @cached_property
    def link_between(self) -> dict[tuple[str, str], Link]:
        """All links, by the devices that each goes from and to."""
        links = self._links_between([device.name for device in self.devices])
        return {(link.source, link.target): link for link in links}

    def place(self, problem: Problem) -> Plan:
        """The plan for a problem of this model, by the method that placed it at first.

        Raises:
            ShardnetError: there is none.
        """
        options = self.options
        return place(problem, options.placement, options.objective, options.in_flight, self.deployment)

    def with_times(self, device: DeviceProfile) -> DeviceProfile:
        """A device with the times of its units: as measured, or a guess where they were not."""
        if device.decode_unit_s:
            return device
        seconds = tuple(unit.weight_bytes / ASSUMED_BYTES_PER_S for unit in self.files.profile.units)
        return replace(device, decode_unit_s=seconds, prefill_unit_s_per_token=seconds, is_estimated=True)

    def _links_between(self, names: Sequence[str]) -> list[Link]:
        if self.links:
            left = set(names)
            return [link for link in self.links if link.source in left and link.target in left]
        return [Link(*ends, ASSUMED_LINK_S, ASSUMED_LINK_BYTES_PER_S) for ends in permutations(names, 2)]
