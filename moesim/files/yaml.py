"""YAML 1.2 that can only describe: plain maps, lists and scalars, each with its line.

Tags, anchors, aliases and duplicate keys are refused, so that a file means what it looks like.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from moesim.errors import Problem, SpecError, acts_on_terminal
from moesim.files.document import Document, Location
from moesim.files.reading import text_of

_BOOLS = {"true": True, "false": False}
_MAX_DEPTH = 30
_MOST_BYTES = 512 << 10
_MOST_NODES = 25_000
"""About two seconds of reading."""
_PLAIN_TAGS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


class _Counted(Composer):
    """Gives up on what could take long before it does."""

    def __init__(self, loader: Any = None):
        super().__init__(loader)
        self.nodes = self.deep = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.parser.peek_event()
        line = event.start_mark.line + 1
        self.nodes, self.deep = self.nodes + 1, self.deep + 1
        if self.nodes > _MOST_NODES:
            raise _Refused(f"holds more than {_MOST_NODES:,} keys and values", line)
        if self.deep > _MAX_DEPTH:
            raise _Refused(f"is nested more than {_MAX_DEPTH} levels deep", line)
        if event.anchor is not None:
            raise _Refused("anchors and aliases are not accepted; write the value out", line)
        node = super().compose_node(parent, index)
        self.deep -= 1
        return node


class _Refused(Exception):
    def __init__(self, message: str, line: int):
        super().__init__(message)
        self.message, self.line = message, line


def read(path: Path) -> Document:
    """Read a YAML file. Raises SpecError naming file and line."""
    return parse(text_of(path, "a YAML file", _MOST_BYTES), str(path))


def parse(text: str, source: str) -> Document:
    """Parse YAML text; ``source`` names it in messages."""
    try:
        loader = YAML(typ="safe", pure=True)
        loader.Composer = _Counted
        root = loader.compose(text)
    except _Refused as error:
        raise SpecError([Problem(error.message, f"{source}:{error.line}")]) from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError([Problem(f"is not valid YAML: {error.problem}", f"{source}:{line}")]) from None
    except (YAMLError, RecursionError) as error:
        first = str(error).splitlines()[0] if str(error) else "nested too deeply"
        raise SpecError([Problem(f"is not valid YAML: {first}", source)]) from None
    if not isinstance(root, MappingNode):
        raise SpecError([Problem("must be a map of keys to values, and is empty or something else", source)])
    document = Document({}, source)
    problems: list[Problem] = []
    document.data = _plain(root, (), document, problems)
    if problems:
        raise SpecError(problems)
    return document


def text(data: dict[str, Any]) -> str:
    """Plain data as YAML that ``parse`` reads back."""
    writer, stream = YAML(typ="safe", pure=True), io.StringIO()
    writer.default_flow_style, writer.width, writer.allow_unicode = False, 110, True
    writer.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]
    writer.representer.ignore_aliases = lambda *_: True
    writer.dump(data, stream)
    return stream.getvalue()


def _plain(node: Node, at: Location, document: Document, problems: list[Problem]) -> Any:
    line = node.start_mark.line + 1
    document.lines.setdefault(at, line)
    where = f"{document.source}:{line}"
    if not isinstance(node, ScalarNode) and str(node.tag or node.ctag) not in _PLAIN_TAGS:
        problems.append(Problem(f"the tag '{node.tag or node.ctag}' is not accepted; plain values only", where))
        return None
    if isinstance(node, MappingNode):
        return _plain_map(node, at, document, problems)
    if isinstance(node, SequenceNode):
        return [_plain(child, (*at, i), document, problems) for i, child in enumerate(node.value)]
    return _scalar(node, where, problems)


def _plain_map(node: MappingNode, at: Location, document: Document, problems: list[Problem]) -> Any:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode):
            problems.append(Problem("a key must be plain text", f"{document.source}:{line}"))
            continue
        key = str(key_node.value)
        if acts_on_terminal(key):
            problems.append(Problem("a key holds a control character", f"{document.source}:{line}"))
            continue
        if key in result:
            first = document.lines[(*at, key)]
            problems.append(
                Problem(f"'{key}' is written twice (first on line {first}); keep one", f"{document.source}:{line}")
            )
            continue
        document.lines[(*at, key)] = line
        result[key] = _plain(value_node, (*at, key), document, problems)
    return result


def _scalar(node: Node, where: str, problems: list[Problem]) -> Any:
    tag, value = str(node.tag or node.ctag), node.value
    if acts_on_terminal(value):
        problems.append(Problem("holds a control character", where))
        return None
    kind = tag.rsplit(":", 1)[-1]
    if "tag:yaml.org,2002:" not in tag or kind not in {"str", "int", "float", "bool", "null", "timestamp"}:
        problems.append(Problem(f"the tag '{tag}' is not accepted; plain values only", where))
        return None
    try:
        if kind == "int":
            return int(value.replace("_", ""), 0) if value[:2] in {"0x", "0o"} else int(value.replace("_", ""))
        if kind == "float":
            return float(value.replace("_", "").replace(".inf", "inf").replace(".nan", "nan").replace(".NaN", "nan"))
    except ValueError:
        return value
    if kind == "bool":
        return _BOOLS.get(value.lower(), value)
    return None if kind == "null" else value
