"""What the page and its like are shown of a plan and of an invitation. Pure but for the drawing of the QR code."""

from __future__ import annotations

from typing import Any

from shardnet.plan import ModelProfile, Plan
from shardnet.planner import plan_to_dict
from shardnet.trust.qr import modules


def shown_plan(plan: Plan, profile: ModelProfile) -> dict[str, Any]:
    """A plan as `shardnet plan --json` has it, with the model, what each stage holds, and what was measured.

    Bytes are of weights, and of keys and values for each token of a conversation.
    """
    told = plan_to_dict(plan)
    for stage in told["stages"]:
        held = profile.units[stage["first_unit"] : stage["last_unit"] + 1]
        stage["weight_bytes"] = sum(unit.weight_bytes for unit in held)
        stage["kv_bytes_per_token"] = sum(unit.kv_bytes_per_token for unit in held)
        stage["units"] = [unit.name for unit in (held[0], held[-1])]
    return {
        "model": profile.name,
        "numbers": profile.numbers,
        "num_units": profile.num_units,
        "weight_bytes": sum(unit.weight_bytes for unit in profile.units),
        "context_tokens": profile.context_tokens,
        "version": plan.version,
        "measured_lap_s": plan.measured_lap_s,
        **told,
    }


def shown_invitation(invitation: dict[str, Any]) -> dict[str, Any]:
    """An invitation as a gate tells it, with the command to type and the QR code as rows of "0" and "1"."""
    address = next(iter(invitation["addresses"]), None)
    if invitation["code"] is None:
        command = f"shardnet join {invitation['qr']}"
    else:
        command = f"shardnet join {invitation['code']}" + ("" if address is None else f" --address {address}")
    keys = ("code", "code_until_s", "qr", "qr_until_s", "addresses")
    rows = ["".join(map(str, row)) for row in modules(invitation["qr"])]
    return {**{key: invitation[key] for key in keys}, "command": command, "modules": rows}
