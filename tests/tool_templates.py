"""Tiny models whose chat template tells of tools."""

from __future__ import annotations

from pathlib import Path

from tiny_text_model import save_text_model

HERMES = (
    "{% if tools %}tools:{% for tool in tools %}{{ tool.function.name }} {% endfor %}call in <tool_call></tool_call>\n"
    "{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>"
    "{{ c.function.name }} {{ c.function.arguments | tojson }}</tool_call>{% endfor %}\n{% endfor %}answer:"
)


def folder_with(path: Path, template: str, *, ends: bool = True) -> Path:
    """A model with that template. Args: `ends`, as `save_text_model` has it."""
    from transformers import AutoTokenizer

    save_text_model(path, ends=ends)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(path)
    return path
