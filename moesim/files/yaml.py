"""YAML 1.2 that can only describe: plain maps, lists and scalars, each with its line.

Tags, anchors, aliases and duplicate keys are refused, so that a file means what it looks like.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from moesim.errors import Problem, SpecError

Location = tuple[str | int, ...]
_BOOLS = {"true": True, "false": False}
_MAX_DEPTH = 30
_PLAIN_TAGS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


@dataclass
class Document:
    """A parsed file: its data, and the line on which each key stands."""

    data: dict[str, Any]
    source: str
    lines: dict[Location, int] = field(default_factory=dict)

    def where(self, location: Location) -> str:
        """``file:line`` of a key, or of the nearest key above it; the source alone where it has no lines."""
        if not self.lines:
            return self.source
        while location and location not in self.lines:
            location = location[:-1]
        line = self.lines.get(location, 1)
        return f"{self.source}:{line}"


def read(path: Path) -> Document:
    """Read a YAML file. Raises SpecError naming file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError([Problem(f"cannot be read ({error.strerror or error})", str(path))]) from None
    except UnicodeDecodeError:
        raise SpecError([Problem("is not UTF-8 text; a YAML file is expected", str(path))]) from None
    return parse(text, str(path))


def parse(text: str, source: str) -> Document:
    """Parse YAML text; ``source`` names it in messages."""
    try:
        root = YAML(typ="safe", pure=True).compose(text)
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
    document.data = _plain(root, (), document, problems, set())
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


def _plain(node: Node, at: Location, document: Document, problems: list[Problem], seen: set[int]) -> Any:
    line = node.start_mark.line + 1
    document.lines.setdefault(at, line)
    where = f"{document.source}:{line}"
    if id(node) in seen or getattr(node, "anchor", None):
        problems.append(Problem("anchors and aliases are not accepted; write the value out", where))
        return None
    seen.add(id(node))
    if len(at) > _MAX_DEPTH:
        problems.append(Problem(f"is nested more than {_MAX_DEPTH} levels deep", where))
        return None
    if not isinstance(node, ScalarNode) and str(node.tag or node.ctag) not in _PLAIN_TAGS:
        problems.append(Problem(f"the tag '{node.tag or node.ctag}' is not accepted; plain values only", where))
        return None
    if isinstance(node, MappingNode):
        return _plain_map(node, at, document, problems, seen)
    if isinstance(node, SequenceNode):
        return [_plain(child, (*at, i), document, problems, seen) for i, child in enumerate(node.value)]
    return _scalar(node, where, problems)


def _plain_map(node: MappingNode, at: Location, document: Document, problems: list[Problem], seen: set[int]) -> Any:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode):
            problems.append(Problem("a key must be plain text", f"{document.source}:{line}"))
            continue
        key = str(key_node.value)
        if key in result:
            first = document.lines[(*at, key)]
            problems.append(
                Problem(f"'{key}' is written twice (first on line {first}); keep one", f"{document.source}:{line}")
            )
            continue
        document.lines[(*at, key)] = line
        result[key] = _plain(value_node, (*at, key), document, problems, seen)
    return result


def _scalar(node: Node, where: str, problems: list[Problem]) -> Any:
    tag, value = str(node.tag or node.ctag), node.value
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


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that must hold an object (a Hugging Face config.json)."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError([Problem(f"cannot be read ({error.strerror or error})", str(path))]) from None
    except UnicodeDecodeError:
        raise SpecError([Problem("is not UTF-8 text; JSON is expected", str(path))]) from None
    except json.JSONDecodeError as error:
        raise SpecError([Problem(f"is not valid JSON: {error.msg}", f"{path}:{error.lineno}")]) from None
    except RecursionError:
        raise SpecError([Problem("is not valid JSON: nested too deeply", str(path))]) from None
    except ValueError as error:
        raise SpecError([Problem(f"is not valid JSON: {str(error).partition(';')[0]}", str(path))]) from None
    if not isinstance(data, dict):
        raise SpecError([Problem("must hold a JSON object, as Hugging Face's config.json does", str(path))])
    return data
