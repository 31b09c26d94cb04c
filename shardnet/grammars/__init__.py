"""Answers that follow a grammar: JSON, a regular expression, a Lark grammar, one of some texts.

`texts` says what a grammar is called on its way, `matching` which tokens may come next. The work is that of
llguidance (https://github.com/guidance-ai/llguidance), the extra `grammar` of devices that may hold the head.
"""
