"""Generate the man page and the completions of bash, zsh and fish from the argument parser in ``xstream.arguments``.

setup.py generates them in every build and installs them where man and the shells look for them: see :data:`PAGES`. Run
as a program, this module writes them into a folder.
"""
import argparse
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

#: Folder of each page under the installation's prefix, and its name there.
PAGES = {
    "man": ("share/man/man1", "xstream.1"),
    "bash": ("share/bash-completion/completions", "xstream"),
    "zsh": ("share/zsh/site-functions", "_xstream"),
    "fish": ("share/fish/vendor_completions.d", "xstream.fish"),
}


class Command(NamedTuple):
    """A parser without subcommands. ``words`` are the words that select it: ``("simulate", "send")``."""

    words: Tuple[str, ...]
    text: str
    options: List[argparse.Action]
    operands: List[argparse.Action]
    examples: str


class Choice(NamedTuple):
    """A subcommand's name, what it does, and the words that come before it."""

    before: Tuple[str, ...]
    word: str
    text: str


def commands(parser: argparse.ArgumentParser, words: Tuple[str, ...] = ()) -> Iterator[Command]:
    """All commands, in the parser's order."""
    below = _below(parser)
    if below is None:
        shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
        yield Command(words, parser.description or "", [action for action in shown if action.option_strings],
                      [action for action in shown if not action.option_strings], getattr(parser, "examples", ""))
    else:
        for word, child in below.choices.items():
            yield from commands(child, words + (word,))


def choices(parser: argparse.ArgumentParser, words: Tuple[str, ...] = ()) -> Iterator[Choice]:
    """All words of all commands, with the words before them."""
    below = _below(parser)
    if below is not None:
        for word, listed in zip(below.choices, below._choices_actions):
            yield Choice(words, word, listed.help or "")
            yield from choices(below.choices[word], words + (word,))


def _below(parser: argparse.ArgumentParser) -> "Optional[argparse._SubParsersAction]":
    return next((action for action in parser._actions if isinstance(action, argparse._SubParsersAction)), None)


def draw(parser: argparse.ArgumentParser, version: str, epilog: str) -> Dict[str, str]:
    """The text of each page. ``epilog`` explains the exit statuses."""
    return {"man": man(parser, version, epilog), "bash": bash(parser), "zsh": zsh(parser), "fish": fish(parser)}


def man(parser: argparse.ArgumentParser, version: str, epilog: str) -> str:
    lines = ['.TH XSTREAM 1 "" "xstream {}" "User Commands"'.format(version), ".SH NAME",
             "xstream \\- " + _roff(_sentence(parser.description)), ".SH SYNOPSIS", ".B xstream", ".I COMMAND",
             "[\\fIOPTION\\fR]...", "[\\fIARGUMENT\\fR]...", ".SH COMMANDS"]
    for command in commands(parser):
        lines += [".SS " + _roff(" ".join(("xstream",) + command.words + tuple(map(_usage, command.operands)))),
                  _roff(command.text)]
        for action in command.operands + command.options:
            if isinstance(action, argparse._HelpAction):
                continue
            lines += [".TP", _roff_option(action), _roff(_help(action))]
        lines += [".PP", "Examples:", ".EX"] + [_roff(line) for line in command.examples.splitlines()] + [".EE"]
    lines += [".SH EXIT STATUS", _roff(epilog)]
    return "\n".join(lines) + "\n"


def _sentence(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")


def _usage(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    return {"?": "[{}]", "+": "{}..."}.get(str(action.nargs), "{}").format(name)


def _help(action: argparse.Action) -> str:
    """The help text with argparse's placeholders filled in."""
    return (action.help or "") % {"default": action.default, "prog": "xstream"}


def _value(action: argparse.Action) -> str:
    """The placeholder for an option's value; empty for an option without one."""
    if action.nargs == 0:
        return ""
    return "|".join(map(str, action.choices)) if action.choices else str(action.metavar or action.dest.upper())


def _roff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text[:1] in ("'", ".") else text


def _roff_option(action: argparse.Action) -> str:
    names = ", ".join("\\fB" + _roff(name) + "\\fR" for name in action.option_strings)
    value = _value(action)
    if not names:
        return "\\fI" + _roff(value) + "\\fR"
    return names + (" \\fI" + _roff(value) + "\\fR" if value else "")


def bash(parser: argparse.ArgumentParser) -> str:
    cases = []
    for command in commands(parser):
        cases.append('        "{}") options="{}" ;;'.format(" ".join(command.words), " ".join(_names(command.options))))
    after: Dict[Tuple[str, ...], List[str]] = {}
    for choice in choices(parser):
        after.setdefault(choice.before, []).append(choice.word)
    for before, words in after.items():
        tops = [] if before else _names(parser._actions)
        cases.append('        "{}") options="{}" ;;'.format(" ".join(before), " ".join(words + tops)))
    values = ['        "{} {}") values="{}" ;;'.format(" ".join(command.words), name, " ".join(_choices(action)))
              for command in commands(parser) for action in command.options if _value(action)
              for name in action.option_strings]
    return BASH.format(commands="|".join(" ".join(choice.before + (choice.word,)) for choice in choices(parser)
                                         ).replace(" ", "\\ "), cases="\n".join(cases), values="\n".join(values))


BASH = """# bash completion of xstream, generated from its argument parser
_xstream() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}}
    local command="" options="" values="" word
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD - 1}}"; do
        case "${{command:+$command }}$word" in
        {commands}) command="${{command:+$command }}$word" ;;
        esac
    done
    case "$command $before" in
{values}
        *) values=none ;;
    esac
    case "$command" in
{cases}
    esac
    if [ "$values" != none ]; then
        options=$values
    elif [[ $command && $options == -* && $current != -* ]]; then
        options=""
    fi
    COMPREPLY=($(compgen -W "$options" -- "$current"))
    [ "${{#COMPREPLY[@]}}" -gt 0 ] || compopt -o default 2>/dev/null
}}
complete -F _xstream xstream
"""


def _names(actions: List[argparse.Action]) -> List[str]:
    return [name for action in actions for name in action.option_strings]


def _choices(action: argparse.Action) -> List[str]:
    return [str(choice) for choice in action.choices or ()]


def zsh(parser: argparse.ArgumentParser) -> str:
    after: Dict[Tuple[str, ...], List[Choice]] = {}
    for choice in choices(parser):
        after.setdefault(choice.before, []).append(choice)
    lines = ["#compdef xstream", "# zsh completion of xstream, generated from its argument parser", ""]
    for before, below in after.items():
        lines += ["{}() {{".format(_function(before)), "    local -a words_below=("]
        lines += ["        {}".format(_quoted(choice.word + ":" + choice.text)) for choice in below]
        lines += ["    )", "    if (( CURRENT == 2 )); then", "        _describe command words_below", "        return",
                  "    fi", "    shift words", "    (( CURRENT -= 1 ))", "    case $words[1] in"]
        lines += ["        {}) {} ;;".format(choice.word, _function(before + (choice.word,))) for choice in below]
        lines += ["    esac", "}", ""]
    for command in commands(parser):
        lines += ["{}() {{".format(_function(command.words)), "    _arguments \\"]
        for action in command.options:
            offered = "({})".format(" ".join(_choices(action))) if action.choices else "_files"
            takes = ":{}:{}".format(action.dest, offered) if _value(action) else ""
            for name in action.option_strings:
                lines.append("        {} \\".format(_quoted("{}[{}]{}".format(name, _bracket(_help(action)), takes))))
        lines += ["        '*:file:_files'", "}", ""]
    return "\n".join(lines) + '_xstream "$@"\n'


def _function(words: Tuple[str, ...]) -> str:
    return "_".join(("_xstream",) + words)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _bracket(text: str) -> str:
    return text.replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")


def fish(parser: argparse.ArgumentParser) -> str:
    lines = ["# fish completion of xstream, generated from its argument parser"]
    siblings: Dict[Tuple[str, ...], List[str]] = {}
    for choice in choices(parser):
        siblings.setdefault(choice.before, []).append(choice.word)
    for choice in choices(parser):
        lines.append("complete -c xstream -f -n {} -a {} -d {}".format(
            _quoted(_seen(choice.before, siblings[choice.before])), choice.word, _quoted(choice.text)))
    for command in commands(parser):
        for action in command.options:
            names = " ".join("-l " + name[2:] if name.startswith("--") else "-s " + name[1:]
                             for name in action.option_strings)
            takes = " -x -a {}".format(_quoted(" ".join(_choices(action)))) if action.choices else (
                " -r" if _value(action) else "")
            lines.append("complete -c xstream -n {} {}{} -d {}".format(
                _quoted(_seen(command.words)), names, takes, _quoted(_help(action))))
    return "\n".join(lines) + "\n"


def _seen(words: Tuple[str, ...], not_yet: Sequence[str] = ()) -> str:
    """fish's test that the words are present, and none of ``not_yet``."""
    tests = ["__fish_seen_subcommand_from " + word for word in words]
    if not_yet:
        tests.append("not __fish_seen_subcommand_from " + " ".join(not_yet))
    return "; and ".join(tests)


def write(folder: Path) -> List[Tuple[str, List[str]]]:
    """Write all pages into a folder; returns them as setuptools' ``data_files``."""
    from xstream import arguments
    from xstream.version import __version__
    folder.mkdir(parents=True, exist_ok=True)
    data_files = []
    for page, text in draw(arguments.argument_parser(), __version__, arguments.EXIT_STATUS).items():
        place, name = PAGES[page]
        path = folder / name
        path.write_text(text, encoding="utf-8")
        data_files.append((place, [str(path)]))
    return data_files


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    write(Path(sys.argv[1]))
