"""Usage errors: one line with a code, in our words, whatever option was given whatever value."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pmuconf.commands.application import application
from pmuconf.commands.base import _Guarded
from pmuconf.commands.names import COMMANDS
from pmuconf.commands.usage import spoken
from tests.unit.conftest import Outcome, Run

NAMES = [*COMMANDS, "complete", "help"]
BAD = ("\x1bno-such", "-1e999", "", "9" * 5000)
"""Values that no option with a type or with choices takes."""


@pytest.fixture(autouse=True)
def no_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments that are taken by mistake must not change a domain of this host, or start a service."""

    def refuse(_command: object, parsed_args: argparse.Namespace) -> int:
        raise AssertionError(f"it would have run with {parsed_args}")

    monkeypatch.setattr(_Guarded, "run", refuse)


def parser_of(name: str) -> argparse.ArgumentParser:
    app = application()
    command, _, _ = app.command_manager.find_command(name.split())
    parser: argparse.ArgumentParser = command(app, None).get_parser(f"pmuconf {name}")
    return parser


def options_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    for action in parser._actions:
        for option in action.option_strings:
            if option not in ("-h", "--help"):
                yield option, action


def taken(action: argparse.Action) -> str:
    """A value that this argument takes."""
    return str(next(iter(action.choices))) if action.choices else "x"


def is_usage_error(said: Outcome) -> None:
    assert (said.status, said.out) == (255, "")
    assert re.fullmatch(r"pmuconf: [^\n]+ \(usage\)[^\n]*\n", said.err), said.err
    assert not re.search(r"[(\[]'|', '|invalid|argument -|unrecognized|Errno|\w+Error|<|_|\x1b", said.err), said.err
    assert len(said.err) < 400


@pytest.mark.parametrize("name", NAMES)
def test_a_value_that_an_option_does_not_take(run: Run, name: str) -> None:
    for option, action in options_of(parser_of(name)):
        if action.nargs == 0:
            if option.startswith("--"):
                said = run(*name.split(), f"{option}=x")
                is_usage_error(said)
                assert said.err.startswith(f"pmuconf: {option} takes no value, but 'x' was given (usage).")
            continue
        said = run(*name.split(), option)
        is_usage_error(said)
        assert f"{action.option_strings[-1]} requires a value" in said.err
        if action.choices is None and action.type in (None, Path):
            continue
        for value in BAD:
            if action.option_strings[-1] in ("--expect", "--limit") and name.startswith("fleet"):
                value = "@/no/such"
            said = run(*name.split(), f"{option}={value}" if option.startswith("--") else f"{option}{value or 'x'}")
            is_usage_error(said)
            assert said.err.startswith(f"pmuconf: {action.option_strings[-1]}")


@pytest.mark.parametrize(
    ("command", "option", "limits"),
    [
        ("apply", "--canary=-1", "from 0 to 2147483647"),
        ("apply", "--max-changes=2147483648", "from 0 to 2147483647"),
        ("apply", "--max-failures=1.5", "from 0 to 2147483647"),
        ("flavors apply", "--max-changes=-1", "from 0 to 2147483647"),
        ("journal purge", "--older-than=-1", "from 0 to 2147483647"),
        ("journal", "--limit=2147483648", "up to 2147483647"),
        ("fleet report", "--jobs=0", "from 1 to 2147483647"),
        ("bench cpuid", "--pairs=501", "from 1 to 500"),
        ("bench cpuid", "--exits=0", "from 1 to 1000000"),
        ("bench cpuid", "--exits=0x10", "from 1 to 1000000"),
        ("bench cpuid", "--seconds=0", "above 0"),
        ("bench cpuid", "--seconds=inf", "above 0"),
        ("bench cpuid", "--confidence=0.5", "between 0.5 and 0.999999"),
    ],
)
def test_a_number_beyond_its_limits_is_refused_and_the_limits_are_named(
    run: Run, command: str, option: str, limits: str
) -> None:
    said = run(*command.split(), option)
    is_usage_error(said)
    name, _, value = option.partition("=")
    assert re.match(rf"pmuconf: {name}: '{re.escape(value)}' is no (whole )?number {limits} \(usage\)\.", said.err)


@pytest.mark.parametrize("name", NAMES)
def test_an_option_that_there_is_not(run: Run, name: str) -> None:
    """Beginnings of options are none: "rollback --a" must not be "rollback --all"."""
    parser = parser_of(name)
    needed = [taken(action) for action in parser._actions if action.required and not action.option_strings]
    if any(group.required for group in parser._mutually_exclusive_groups):
        needed = ["x"]
    long = [option for option, action in options_of(parser) if option.startswith("--") and action.nargs == 0]
    for option in [option[:-1] for option in long] or ["--hel"]:
        said = run(*name.split(), *needed, option)
        is_usage_error(said)
        assert f"there is no option {option} (usage). Did you mean " in said.err
        assert re.search(rf"{option}\w", said.err)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_that_are_missing_or_too_many(run: Run, name: str) -> None:
    parser = parser_of(name)
    positional = [action for action in parser._actions if not action.option_strings]
    required = [action for action in positional if action.required and action.nargs != "*"]
    if required:
        said = run(*name.split())
        is_usage_error(said)
        assert f"{required[0].metavar}" in said.err
        assert "must be given (usage)" in said.err
    if not any(action.nargs in ("*", "+") for action in positional):
        said = run(*name.split(), *map(taken, positional), "zuviel")
        is_usage_error(said)
        assert "'zuviel' is an argument too many (usage)" in said.err


@pytest.mark.parametrize("name", [name for name in NAMES if parser_of(name)._mutually_exclusive_groups])
def test_options_that_exclude_each_other(run: Run, name: str) -> None:
    for group in parser_of(name)._mutually_exclusive_groups:
        if group._group_actions[0].dest.startswith("sort_"):  # cliff's: the last one counts
            continue
        given = [str([action.metavar, *action.option_strings][-1]) for action in group._group_actions]
        first, second = group._group_actions[-2:]
        said = run(*name.split(), *_words(first), *_words(second))
        is_usage_error(said)
        assert f"{given[-2]} and {given[-1]} can't be given together (usage)" in said.err
        if group.required:
            said = run(*name.split())
            is_usage_error(said)
            assert f"{', '.join(given[:-1])} or {given[-1]} must be given (usage)" in said.err


def _words(action: argparse.Action) -> list[str]:
    return [*action.option_strings[-1:], *([] if action.nargs == 0 else ["1"])]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--nosuch", "'--nosuch' is no option of pmuconf itself"),
        ("--config-fil x audit", "'--config-fil' is no option of pmuconf itself"),
        ("--config-file", "--config-file requires a value"),
        ("--log-file", "--log-file requires a value"),
        ("-q -v audit", "--quiet and --verbose can't be given together"),
        ("--debug=x audit", "--debug takes no value, but 'x' was given"),
        ("adit", "'adit' is no command"),
        ("help adit", "'adit' is no command"),
    ],
)
def test_the_options_of_pmuconf_itself(run: Run, arguments: str, sentence: str) -> None:
    said = run(*arguments.split(), config=None)
    is_usage_error(said)
    assert said.err.startswith(f"pmuconf: {sentence} (usage)")


def test_the_choices_are_named_and_the_nearest_is_suggested(run: Run) -> None:
    said = run("report", "-f", "prometeus")
    assert said.err.startswith(
        "pmuconf: --format takes json, csv, prometheus or html, not 'prometeus' (usage). Did you mean prometheus? "
    )


@pytest.mark.parametrize("choices", ["'json', 'csv'", "json, csv"], ids=["before 3.12", "from 3.12 on"])
def test_the_words_of_every_python(capsys: pytest.CaptureFixture[str], choices: str) -> None:
    parser = spoken(argparse.ArgumentParser(), "pmuconf x")
    with pytest.raises(SystemExit):
        parser.error(f"argument -f/--format: invalid choice: 'jsn' (choose from {choices})")
    assert capsys.readouterr().err == (
        "pmuconf: --format takes json or csv, not 'jsn' (usage). Did you mean json? "
        "'pmuconf x --help' shows what it takes\n"
    )


@pytest.mark.parametrize("variable", ["CLIFF_MAX_TERM_WIDTH", "CLIFF_FIT_WIDTH"])
def test_an_environment_that_cliff_cannot_read(run: Run, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "wide")
    said = run("journal")
    assert (said.status, said.out) == (255, "")
    assert f"{variable}" in said.err
    assert "must be whole numbers (usage)" in said.err


def test_a_log_that_cannot_be_written_is_named(run: Run) -> None:
    said = run("--log-file", "/no/such/log", "policy", "check")
    assert (said.status, said.out) == (255, "")
    assert said.err == "pmuconf: --log-file /no/such/log: No such file or directory (output-unwritable)\n"


@pytest.mark.parametrize("option", ["-v", "-q", "--debug"])
def test_options_alone_show_the_commands_and_open_no_shell(run: Run, option: str) -> None:
    said = run(option, config=None)
    assert (said.status, said.out) == (255, "")
    assert "usage: pmuconf [OPTION ...] COMMAND" in said.err
    assert "cliff.interactive" not in sys.modules
