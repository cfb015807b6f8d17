"""``moesim completion``: words of commands and options for bash, zsh and fish."""

from __future__ import annotations

import argparse
from typing import Any

_BASH = """_moesim() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words
  case "${{COMP_WORDS[1]}}" in
{cases}
    *) words="{commands}" ;;
  esac
  [[ $COMP_CWORD -eq 1 ]] && words="{commands}"
  COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "$word"))
}}
complete -o filenames -F _moesim moesim"""


def completion_command(commands: Any, parser: argparse.ArgumentParser) -> None:
    about = 'print what completes moesim\'s words in a shell: eval "$(moesim completion bash)"'
    command = commands.add_parser("completion", help=about, description=about)
    command.add_argument("shell", choices=("bash", "zsh", "fish"))
    command.set_defaults(run=lambda options, rest: print(completion(parser, options.shell)) or 0)


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """A script for a shell, told by the parser itself."""
    options = {name: _options(command) for name, command in _commands(parser).items()}
    if shell == "fish":
        lines = [f"complete -c moesim -n __fish_use_subcommand -a '{' '.join(options)}'"]
        for name, words in options.items():
            lines += [
                f"complete -c moesim -n '__fish_seen_subcommand_from {name}' -l {word.removeprefix('--')}"
                for word in words
                if word.startswith("--")
            ]
        return "\n".join(lines)
    cases = "\n".join(f'    {name}) words="{" ".join(words)}" ;;' for name, words in options.items())
    script = _BASH.format(cases=cases, commands=" ".join(options))
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if shell == "zsh" else script


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(dict(a.choices) for a in parser._actions if isinstance(a, argparse._SubParsersAction))


def _options(command: argparse.ArgumentParser) -> list[str]:
    return [word for action in command._actions for word in action.option_strings]
