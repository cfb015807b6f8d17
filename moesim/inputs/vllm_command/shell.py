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
_LISTED = re.compile(r"\s*(?:(?:command|args):|\[|- )")
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
    """The words of each statement; a variable that an earlier one sets has its value. Raises SpecError."""
    if _LISTED.match(text):
        return [_listed(text)]
    known, found = dict(variables or {}), list[list[str]]()
    for raw, after_line in _split(text):
        if after_line and found and raw[0].startswith("-"):
            # A line of flags goes on with the command above it, backslash or not.
            found[-1] += [_plain(word, known) for word in raw]
            continue
        words = [_plain(word, known) for word in raw]
        set_here, rest = assignments(words)
        known |= {} if rest else set_here
        found.append(words)
    return found


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


def _plain(word: str, variables: dict[str, str]) -> str:
    """A word without its quotes, known variables in place."""

    def value(found: re.Match[str]) -> str:
        name, default = found[1] or found[3], found[2]
        return variables.get(name, found[0] if default is None else default)

    pieces = list[str]()
    for piece in _PIECE.findall(word):
        if piece[0] == "'":
            pieces.append(piece[1:-1])
        elif piece[0] == '"':
            pieces.append(re.sub(r'\\(["\\$`])|\\\n', r"\1", _VARIABLE.sub(value, piece[1:-1])))
        elif piece[0] == "\\":
            pieces.append(piece[1:])
        else:
            pieces.append(_VARIABLE.sub(value, piece))
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
