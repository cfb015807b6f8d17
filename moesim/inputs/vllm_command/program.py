"""Which program a command line runs: vLLM's server or offline benchmark, perhaps in a container, or something else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from moesim.errors import Problem, SpecError
from moesim.inputs.vllm_command.shell import WHERE, assignments, is_assignment, statements, unresolved
from moesim.inputs.vllm_command.tables import tables

_ACCEPTED = "'vllm serve MODEL --flag value ...' or 'docker run ... vllm/vllm-openai:v0.18.0 MODEL ...' is accepted"
_CONTAINERS = {"docker", "podman", "nerdctl"}
_SHELLS = {"bash", "sh", "zsh"}
_IMAGE = re.compile(r"(?P<name>(?:[\w.-]+(?::\d+)?/)*[\w.-]+)(?P<tag>[:@].+)?")
_VERSION = re.compile(r"(?:^:v?|vllm[_-]v?)([01]\.\d+(?:\.\d+)*)(?!\d)")
_NEWEST = re.compile(r"\b(latest|nightly)\b")
_PINNED = re.compile(r"vllm(?:==|@)v?(\d[\d.]*\d)")
_LAUNCHED = re.compile(r"vllm/vllm-openai[\w-]*:v?(\d[\d.]*\d)")
_TALK = {"echo", "printf"}
_NO_VALUE = re.compile(
    r"-[ditP]+|--(?:rm|detach|init|interactive|no-healthcheck|oom-kill-disable|privileged|publish-all|read-only|sig-proxy|tty|quiet)"
)
"""Options of ``docker run`` that stand alone."""


@dataclass(frozen=True)
class Program:
    """vLLM as a command line starts it."""

    kind: str
    """``serve``, ``bench latency`` or ``bench throughput``."""
    words: list[str]
    """Its arguments."""
    environment: dict[str, str] = field(default_factory=dict)
    version: str | None = None
    front_end: str | None = None
    notes: tuple[str, ...] = ()


def program_of(text: str) -> Program:
    """The first vLLM server or offline benchmark that a text starts. Raises SpecError."""
    exported, refused, installed = dict[str, str](), list[str](), None
    told = statements(text)
    for i, words in enumerate(told):
        given, rest = assignments(words)
        exported |= given
        if not rest or rest[0] in _TALK:
            continue
        installed = _pinned(rest) or installed
        try:
            found = _program(rest, exported)
        except SpecError as error:
            refused += [problem.message for problem in error.problems]
            continue
        if found is not None:
            notes = (*found.notes, *_unused(told[i + 1 :]))
            return replace(
                found, environment=exported | found.environment, version=found.version or installed, notes=notes
            )
    raise SpecError([Problem(refused[0] if refused else f"is no vLLM command; {_ACCEPTED}", WHERE)])


def _pinned(words: list[str]) -> str | None:
    """The version of vLLM that words install or name the image of."""
    return next((found[1] for word in words if (found := _PINNED.fullmatch(word) or _LAUNCHED.search(word))), None)


def _unused(later: list[list[str]]) -> Iterator[str]:
    """Commands of vLLM behind the first server."""
    for words in later:
        rest = assignments(words)[1]
        if rest[:1] and rest[0] not in _TALK and any(re.match(r"(?:.*/)?vllm(?:$|[./])", word) for word in rest):
            yield f"'{' '.join(rest)[:60]}' after it is not used: the first command that starts an engine counts"


def _program(words: list[str], exported: dict[str, str]) -> Program | None:
    """What a statement runs, whatever starts it (sudo, nohup, uv run ...). Raises SpecError for no server."""
    before = {word.partition("=")[0]: word.partition("=")[2] for word in words if is_assignment(word)}
    for place, word in enumerate(words):
        base, rest = word.rpartition("/")[2], words[place + 1 :]
        found: Program | None = None
        if base in _CONTAINERS and "run" in rest[:2] and rest[0] != "compose":
            return _contained(rest[rest.index("run") + 1 :], exported)
        if base == "vllm" or _PINNED.fullmatch(base):
            found = _vllm(rest, alone=place == 0)
        elif re.fullmatch(r"python[\d.]*", base) and "-m" in rest[:4]:
            found = _module(rest[rest.index("-m") + 1 :])
        elif base in _SHELLS and len(rest) > 1 and re.fullmatch(r"-\w*c", rest[0]):
            return program_of_script(rest[1], exported)
        elif base in tables().other_programs and (place == 0 or not words[place - 1].startswith("-")):
            raise _other(tables().other_programs[base])
        if found is not None:
            own = {name: value for name, value in before.items() if f"{name}={value}" in words[:place]}
            return replace(
                found, environment=own | found.environment, version=found.version or _pinned(words[: place + 1])
            )
    if words[0].startswith("-") and any(re.match(r"--model(=|$)", word) for word in words):
        return Program("serve", words)
    return None


def program_of_script(text: str, exported: dict[str, str]) -> Program:
    settings = " ".join(f"{name}='{value}'" for name, value in exported.items() if "'" not in value)
    return program_of(f"{settings}\n{text}")


def _vllm(words: list[str], alone: bool) -> Program | None:
    """``vllm SUBCOMMAND ...``; ``alone``: nothing stands before it."""
    known = tables().subcommands
    name = " ".join(words[:2]) if words[:1] == ["bench"] else "".join(words[:1])
    if name not in known:
        if not alone:
            return None
        raise SpecError([Problem(f"'{f'vllm {name}'.strip()}' starts no engine to predict; {_ACCEPTED}", WHERE)])
    if known[name] != "read":
        raise SpecError([Problem(f"'vllm {name}' starts no engine to predict: it {known[name]}; {_ACCEPTED}", WHERE)])
    return Program(name, words[len(name.split()) :], front_end="none" if name != "serve" else None)


def _module(words: list[str]) -> Program | None:
    """``python -m MODULE ...``."""
    name, rest = "".join(words[:1]), words[1:]
    top = name.partition(".")[0]
    if re.fullmatch(r"vllm\.entrypoints\.(\w+\.)*api_server", name):
        return Program("serve", rest)
    if name in {"vllm", "vllm.entrypoints.cli.main"}:
        return _vllm(rest, alone=True)
    if name == "dynamo.vllm":
        return Program("serve", rest, front_end="dynamo")
    if top == "dynamo" and name.partition(".")[2] in tables().other_programs:
        raise _other(tables().other_programs[name.partition(".")[2]])
    if top == "vllm":
        raise SpecError([Problem(f"'python -m {name}' starts no engine to predict; {_ACCEPTED}", WHERE)])
    if top in tables().other_programs:
        raise _other(tables().other_programs[top])
    return None


def _other(engine: str) -> SpecError:
    return SpecError([Problem(f"is a command of {engine}, which is not predicted; vLLM's are: {_ACCEPTED}", WHERE)])


def _contained(words: list[str], exported: dict[str, str]) -> Program:
    """What runs in a container: options up to the image are the container's, the rest is the program's."""
    given, entry, notes = dict[str, str](), list[str](), list[str]()
    while words and words[0].startswith("-"):
        option, equals, value = words[0].partition("=")
        words = words[1:]
        if re.match(r"-e.", option):
            option, value, equals = "-e", f"{option[2:]}{equals}{value}", "="
        glued = re.fullmatch(r"-[A-Za-z].+", option) is not None
        if not equals and not glued and not _NO_VALUE.fullmatch(option):
            value, words = "".join(words[:1]), words[1:]
        if option in {"-e", "--env"} and (is_assignment(value) or value in exported):
            given |= assignments([value])[0] or {value: exported[value]}
        elif option == "--env-file":
            notes.append(f"--env-file {value} is not used: what it sets is not known here")
        elif option == "--entrypoint":
            entry = [value] if value else []
    image, inside = "".join(words[:1]), [*entry, *words[1:]]
    found = _program(inside, exported | given) if inside else None
    named = _IMAGE.fullmatch(image)
    ours = named is not None and "vllm" in named["name"]
    if found is None and not ours:
        message = f"runs no image of vLLM; {_ACCEPTED}"
        other = next((name for key, name in tables().other_programs.items() if key.split("-")[0] in image), None)
        raise _other(other) if other else SpecError([Problem(message, WHERE)])
    found = found or Program("serve", inside[1:] if inside[:1] == ["serve"] else inside)
    version = _version(named["tag"] or ":latest") if ours and named else None
    return replace(
        found, environment=given | found.environment, version=found.version or version, notes=(*notes, *found.notes)
    )


def _version(tag: str) -> str:
    """The version that an image's tag names. Raises SpecError."""
    if (number := _VERSION.search(tag)) or (number := _NEWEST.search(tag)):
        return number[1]
    known = "a tag like v0.18.0, latest or nightly does; or give the command inside and --engine-version"
    what = "has no value here" if unresolved(tag) else "names no version"
    raise SpecError([Problem(f"the image's tag '{tag[1:]}' {what}; {known}", WHERE)])
