"""Shell text -> statements of words: quotes, continued lines, redirections and variables, as a shell reads them."""

from __future__ import annotations

import re
import textwrap

from moesim.errors import Problem, SpecError
from moesim.files import yaml

WHERE = "--from-vllm"
_TOKEN = re.compile(
    r"""
    (?P<space>(?:[ \t\r]|\\[ \t\r]*(?:\n|\Z))+)
  | (?P<comment>\#[^\n]*)
  | (?P<redirect>(?:\d|&)?(?:>>|>\||<<<|>|<(?![A-Za-z][\w.-]*>))(?:&(?:\d|-))?)
  | (?P<end>\n|&&|\|\||\|&|[|;&])
  | (?P<word>(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|\$\([^)]*\)|\$\{[^}]*\}|`[^`]*`|<[A-Za-z][\w.-]*>|[^\s'"\\;&|<>`])+)
    """,
    re.VERBOSE | re.DOTALL,
)
_PIECE = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|[^'\"\\]+", re.DOTALL)
_VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}|\$(\w+)")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_ADDED = re.compile(r"([A-Za-z_]\w*)\+=(.*)", re.DOTALL)
_LISTED = re.compile(r"\s*(?:(?:command|args):|\[[^\]]*,|- )")
_OPENS, _CLOSES = {"if", "for", "while", "until", "case"}, {"fi", "done", "esac"}
_BEFORE = {"then", "else", "elif", "do", "{", "!", "time"}
"""Words of a shell's own that stand before a command."""
_TYPESET = {"\u00a0": " ", "\u2014": "--", "\u2013": "--", "\u201c": '"', "\u201d": '"', "\u2019": "'"}
"""What pages make of spaces, dashes and quotes."""
_UNRESOLVED = re.compile(r"\$[\w({]|`|^<[A-Za-z][\w.-]*>$")


def unresolved(text: str) -> bool:
    """Whether a word holds a shell variable, a command's output or a place to fill in."""
    return _UNRESOLVED.search(text) is not None


def is_assignment(word: str) -> bool:
    return _ASSIGNMENT.fullmatch(word) is not None


def assignments(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """(assignments before a command, the command)."""
    found: dict[str, str] = {}
    while words and (is_assignment(words[0]) or words[0] == "export"):
        name, equals, value = words[0].partition("=")
        if equals:
            found[name] = value
        words = words[1:]
    return found, words


def statements(text: str, variables: dict[str, str] | None = None) -> list[list[str]]:
    """The words of each statement; a variable has the value that an earlier one sets. Raises SpecError.

    What is set under a condition has none: which branch runs is not known.
    """
    if _LISTED.match(text):
        return [_listed(text)]
    known, found, depth = dict(variables or {}), list[list[str]](), 0
    for written, after_line in _split(_typed(text)):
        raw = _commanded(written)
        depth += (written[0] in _OPENS) - (written[0] in _CLOSES)
        if after_line and found and raw and raw[0].startswith("-"):
            # A line of flags goes on with the command above it, backslash or not.
            found[-1] += _plain(raw, known)
            continue
        words = [_added(word, known) for word in _plain(raw, known)]
        set_here, rest = assignments(words)
        if not rest:
            known |= {name: f"${name}" for name in set_here} if depth else set_here
        found += [words] if words else []
    return found


def _typed(text: str) -> str:
    for typeset, typed in _TYPESET.items():
        text = text.replace(typeset, typed)
    return text


def _commanded(words: list[str]) -> list[str]:
    """A statement without the shell's own words before it and the brackets of a subshell around it."""
    while words and words[0] in _BEFORE:
        words = words[1:]
    if words and words[0].startswith("("):
        words = [word for word in (words[0][1:], *words[1:]) if word]
    if words and words[-1].endswith(")") and words[-1].count(")") > words[-1].count("("):
        words = [word for word in (*words[:-1], words[-1][:-1]) if word]
    return words


def _added(word: str, known: dict[str, str]) -> str:
    """``NAME+=more`` as ``NAME=all of it``."""
    found = _ADDED.fullmatch(word)
    return f"{found[1]}={known.get(found[1], '')}{found[2]}" if found else word


def _split(text: str) -> list[tuple[list[str], bool]]:
    """(words as written, whether a line's end came before) of each statement, redirections left out."""
    found, words, at, target, after_line = list[tuple[list[str], bool]](), list[str](), 0, False, False
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise SpecError([Problem(f"cannot be read: no closing quotation at '{text[at : at + 20]}'", WHERE)])
        at = token.end()
        if token.lastgroup == "redirect":
            target = "&" not in token[0][1:]
        elif token.lastgroup == "word":
            words += [] if target else [token[0]]
            target = False
        elif token.lastgroup == "end":
            found += [(words, after_line)] if words else []
            after_line = token[0] == "\n" or (after_line and not words)
            words, target = [], False
    return [*found, (words, after_line)] if words else found


def _plain(words: list[str], variables: dict[str, str]) -> list[str]:
    """Words without their quotes, known variables in place: several words where one stood outside quotes."""
    found = list[str]()
    for word in words:
        whole = _without_quotes(word, variables)
        if is_assignment(word) or _ADDED.fullmatch(word):
            found.append(whole.replace(_APART, " "))
        else:
            parts = [part for part in whole.split(_APART) if part]
            found += parts if parts or word[0] not in "'\"" else [""]
    return found


_APART = "\0"
"""Stands for a blank that ends a word."""


def _without_quotes(word: str, variables: dict[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name, default = found[1] or found[3], found[2]
        return variables.get(name, found[0] if default is None else default)

    def apart(found: re.Match[str]) -> str:
        return re.sub(r"\s+", _APART, value(found))

    pieces = list[str]()
    for piece in _PIECE.findall(word):
        if piece[0] == "'":
            pieces.append(piece[1:-1])
        elif piece[0] == '"':
            pieces.append(re.sub(r'\\(["\\$`])|\\\n', r"\1", _VARIABLE.sub(value, piece[1:-1])))
        elif piece[0] == "\\":
            pieces.append(piece[1:])
        else:
            pieces.append(_VARIABLE.sub(apart, piece))
    return "".join(pieces)


def _listed(text: str) -> list[str]:
    """A container's ``command`` and ``args`` as a chart has them: YAML or JSON lists of words."""
    text = textwrap.dedent(text).strip("\n")
    if not text.lstrip().startswith(("command:", "args:")):
        text = f"args: {text}" if text.lstrip().startswith("[") else f"args:\n{text}"
    data = yaml.parse(text, WHERE).data
    parts = [data.get("command") or [], data.get("args") or []]
    if not all(isinstance(part, list) for part in parts):
        message = "'command' and 'args' are lists of words, like [vllm, serve, MODEL]"
        raise SpecError([Problem(f"cannot be read: {message}", WHERE)])
    return [str(word) for part in parts for word in part]
