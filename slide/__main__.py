"""The command line: ``python -m slide``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import slide
from slide import _cli

FORMATS = """\
files:
  A file may be compressed by gzip. Its format is found by its first line.
  xmc       'points features labels', then lines 'label,label feature:value ...';
            ids count from 0. The format of the extreme classification repository.
  svmlight  lines 'label,label feature:value ...', without a first line of counts;
            labels count from 0, feature ids are taken as they are, as by
            slide.data.read_svmlight(..., zero_based=True) in Python.
One label needs --loss bce, or --n-labels 2.
"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help explains)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; by default the process's own.

    Returns
    -------
    int
        The exit status: 0, 2 after an error, 130 after Ctrl-C.
    """
    options = parser().parse_args(argv)
    try:
        options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        print(f"interrupted{_suffix(interrupt)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has had enough. Python must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError as error:
        return _failed(options, f"not enough memory: {error}")
    except (OSError, ValueError, FloatingPointError) as error:
        return _failed(options, _cli.described(error))
    return 0


def _suffix(interrupt: KeyboardInterrupt) -> str:
    return f": {interrupt}" if str(interrupt) else ""


def _failed(options: argparse.Namespace, message: str) -> int:
    line = " ".join(message.split())
    print(f"python -m slide {options.command}: error: {line}", file=sys.stderr)
    return 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = Parser(
        prog="python -m slide",
        description="Train and use networks with very many outputs, computing few of them.",
        epilog="'python -m slide COMMAND --help' explains a command.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"slide {slide.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[Any], Any], brief: str, text: str = "", **more: Any
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=brief,
            description=f"{brief[0].upper()}{brief[1:]}. {text}".strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **more,
        )
        made.set_defaults(run=run)
        return made

    demo = command(
        "demo",
        _cli.demo,
        "learn WordNet's 13,043 categories, then find words for definitions",
        "Takes\n"
        "some ten seconds on two free processors and needs no download. Ctrl-C stops training,\n"
        "saves what has been learned, and exits with status 130.",
    )
    demo.add_argument(
        "--ask",
        action="append",
        default=[],
        metavar="TEXT",
        help="a definition to find words for; may be given several times. Uses the model in "
        "--output if that exists, and trains one first if not",
    )
    demo.add_argument("--epochs", type=at_least(1), default=8, metavar="N", help="default: 8")
    demo.add_argument(
        "--output",
        default=_cli.DEMO_MODEL,
        metavar="PATH",
        help="where the model is saved; replaces a file that is there (default: %(default)s)",
    )
    _common(demo)

    train = command(
        "train",
        _cli.train,
        "train a network on a file",
        "It has relu layers and one output\n"
        "for each label, learns by Adam, and is saved when training ends. Ctrl-C stops training,\n"
        "saves what has been learned, and exits with status 130.",
        epilog=FORMATS,
    )
    train.add_argument("data", metavar="DATA", help="the file to learn from")
    train.add_argument(
        "--output",
        default="model.slide",
        metavar="PATH",
        help="where the model is saved; replaces a file that is there (default: %(default)s)",
    )
    train.add_argument(
        "--validation", metavar="FILE", help="a file to evaluate on after every epoch"
    )
    train.add_argument(
        "--hidden",
        type=sizes,
        default=[128],
        metavar="N[,N...]",
        help="neurons of the hidden layers (default: 128)",
    )
    train.add_argument(
        "--epochs", type=at_least(1), default=10, metavar="N", help="default: %(default)s"
    )
    train.add_argument(
        "--batch-size",
        type=at_least(1),
        default=256,
        metavar="N",
        help="points a step (default: %(default)s)",
    )
    train.add_argument(
        "--learning-rate",
        type=positive,
        default=2e-3,
        metavar="X",
        help="of Adam (default: %(default)s)",
    )
    train.add_argument(
        "--lazy",
        action="store_true",
        help="lazy Adam: features and labels that a step does not meet stay where they are, and "
        "rare ones overfit later. Try twice the learning rate",
    )
    train.add_argument(
        "--loss",
        choices=("softmax", "bce"),
        default="softmax",
        help="softmax: a point's labels share a probability of 1. bce: every label has one of "
        "its own (default: %(default)s)",
    )
    train.add_argument(
        "--sampler",
        type=sampler,
        default="auto",
        metavar="HOW",
        help="which output neurons a point computes in training. auto: the recommended few. none: "
        "all. R,F,U: so many retrieved for the point, so many of the most frequent labels and so "
        "many random ones, 0 for none (default: auto)",
    )
    train.add_argument(
        "--n-features",
        type=at_least(1),
        metavar="N",
        help="more than the file shows, if other files have larger ids",
    )
    train.add_argument(
        "--n-labels",
        type=at_least(1),
        metavar="N",
        help="more than the file shows, if other files have larger ids",
    )
    train.add_argument("--quiet", action="store_true", help="print nothing but errors")
    _format(train)
    _common(train)

    evaluate = command(
        "evaluate",
        _cli.evaluate,
        "measure a model on a file",
        "Prints the loss, P@1, P@3, P@5 and nDCG@5 and,\nwith --training-data, PSP@5.",
        epilog=FORMATS,
    )
    _model(evaluate)
    evaluate.add_argument(
        "--training-data",
        metavar="FILE",
        help="the file that the model was trained on: how often each label occurs there gives "
        "the weights of PSP@5, in which rare labels count more",
    )
    evaluate.add_argument(
        "--propensity",
        type=propensity,
        default=(0.55, 1.5),
        metavar="A,B",
        help="constants of PSP (default: 0.55,1.5; Amazon-670K uses 0.6,2.6)",
    )
    _format(evaluate)
    _jobs(evaluate)

    predict = command(
        "predict",
        _cli.predict,
        "find the best labels for each point of a file",
        "Writes a line\n"
        "'label:score label:score ...' for each point, best first. Labels in the file count for\n"
        "nothing.",
        epilog=FORMATS,
    )
    _model(predict)
    predict.add_argument(
        "--top-k", type=at_least(1), metavar="K", help="labels a line (default: 5, or all if fewer)"
    )
    predict.add_argument(
        "--output",
        metavar="FILE",
        help="where to write, compressed if the name ends with .gz; replaces a file that is there "
        "(default: standard output)",
    )
    predict.add_argument(
        "--approximate",
        action="store_true",
        help="compute only the neurons that the model's hash tables return; lines may be shorter",
    )
    _format(predict)
    _jobs(predict)

    cache = command(
        "cache",
        _cli.cache,
        "show how much --cache keeps",
        "Prints the directory, the number of files\nand their size.",
    )
    cache.add_argument("--clear", action="store_true", help="remove the files")

    command("show-config", lambda options: slide.show_config(), "print what this build uses")
    return top


def _model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="a model that 'train' saved")
    command.add_argument("data", metavar="DATA", help="the file of points")


def _format(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--format",
        choices=("auto", "xmc", "svmlight"),
        default="auto",
        help="of all files (default: auto, by the first line)",
    )
    command.add_argument(
        "--cache",
        action="store_true",
        help="keep what is read in binary files, in SLIDE_CACHE or ~/.cache/slide, and do not "
        "parse the same file again; 'python -m slide cache' shows and removes them",
    )


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--seed",
        type=at_least(0),
        default=0,
        metavar="N",
        help="of everything random (default: %(default)s)",
    )
    _jobs(command)


def _jobs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--n-jobs", type=jobs, default=-1, metavar="N", help="threads (default: -1, all processors)"
    )


# Types of arguments: argparse puts the option's name before what they say. ------------------------


def at_least(low: int) -> Callable[[str], int]:
    """Return a type for integers from `low` on."""

    def integer(text: str) -> int:
        number = _number(text, int, "an integer")
        if number < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, got {text}")
        if number >= 2**63:
            raise argparse.ArgumentTypeError(f"must be below 2^63 = {2**63}, got {text}")
        return number

    return integer


def jobs(text: str) -> int:
    """Convert a number of threads, in joblib's sense."""
    number = _number(text, int, "an integer")
    if number == 0 or abs(number) > 1024:
        raise argparse.ArgumentTypeError(f"must be 1 to 1024, or -1 for all processors, got {text}")
    return number


def positive(text: str) -> float:
    """Convert a number above 0."""
    number = _number(text, float, "a number")
    if not 0 < number < 1e10:
        raise argparse.ArgumentTypeError(f"must be above 0 and below 1e10, got {text}")
    return number


def sizes(text: str) -> list[int]:
    """Convert one or more numbers of neurons."""
    return [at_least(1)(part) for part in text.split(",")]


def sampler(text: str) -> Any:
    """Convert a sampler's name or counts."""
    if text in ("auto", "none"):
        return text
    parts = text.split(",")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"must be auto, none or three counts R,F,U, got {text!r}")
    counts = [at_least(0)(part) for part in parts]
    if not any(counts):
        raise argparse.ArgumentTypeError("0,0,0 would compute nothing; 'none' computes all")
    return counts


def propensity(text: str) -> tuple[float, float]:
    """Convert the constants of propensities."""
    parts = text.split(",")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"must be two numbers A,B, got {text!r}")
    return positive(parts[0]), positive(parts[1])


def _number(text: str, kind: Any, wanted: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}") from None


if __name__ == "__main__":
    sys.exit(main())
