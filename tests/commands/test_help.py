"""Help texts: the same option has the same words in every command, every value a name, every default is said."""

from __future__ import annotations

import argparse
from collections import defaultdict

from kipoi_seq2exp.cli import build_parser

OTHER_THINGS = {  # one word of English for several things: each command says its own
    "--output": "what a command writes differs",
    "--from": "predictions, or a group",
    "--genes": "a table, or how many are invented",
    "--label": "one of a run to learn, to draw or to compare",
    "--method": "of contributions, or of compared models",
    "--peaks": "as the mask, or beside it",
    "--perturb": "an effect for each element, or a score",
    "--plot": "one picture, or a format",
    "--cell-type": "of weights that name none, or of a run",
    "--gtf": "drawn, or overlapped",
    "--gene-type": "of a GTF among other inputs, or of the GTF",
    "--seed": "of shuffles, or of a genome",
    "--shuffles": "of windows, or of sites",
    "MODEL": "`evaluate` takes a run, too",
    "GENE": "of a table, or of a result",
    "--steps": "of integrals, or of training",
}


def commands(parser=None, name=""):
    parser = parser or build_parser()
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for action in below:
        for word, found in action.choices.items():
            yield from commands(found, f"{name} {word}".strip())


def arguments():
    """Each argument of each command: command, name, action."""
    for command, parser in commands():
        for action in parser._actions:
            if not isinstance(action, argparse._HelpAction):
                yield command, action.option_strings[-1] if action.option_strings else action.metavar, action


def test_the_same_option_has_the_same_words_in_every_command():
    words = defaultdict(lambda: defaultdict(list))
    for command, name, action in arguments():
        words[name][action.metavar, action.help].append(command)
    differing = {name: dict(found) for name, found in words.items() if len(found) > 1}
    assert {name: found for name, found in differing.items() if name not in OTHER_THINGS} == {}
    assert set(OTHER_THINGS) == set(differing)  # an exception that is none any more hides the next slip


def test_every_value_has_a_name_in_capitals_or_a_list_of_choices():
    nameless = []
    for command, name, action in arguments():
        takes_value = action.nargs != 0
        if (
            takes_value
            and action.choices is None
            and (action.metavar is None or not any(map(str.isupper, action.metavar)))
        ):
            nameless.append((command, name))
    assert not nameless


def test_every_default_is_said_and_in_one_form():
    silent = []
    for command, name, action in arguments():
        if action.nargs == 0 or action.required or action.default in (None, [], ()):
            continue
        if f"(default: {action.default}" not in action.help and "(default)" not in action.help:
            silent.append((command, name, action.default, action.help))
    assert not silent
    assert not [(command, name) for command, name, action in arguments() if "(default " in action.help]
