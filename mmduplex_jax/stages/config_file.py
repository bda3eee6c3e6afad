"""Configs on the command line of every command: `--config=FILE.py` and `--config.a.b=VALUE`, beside argparse's flags.

    flags = command_parser("launch.NAME", __doc__)
    add_config_flag(flags)                     # or required=False
    add_json_flag(flags)
    return run_main(flags, argv, work, {ValueError: 2})

    def work(args):                            # args.config: resolved and locked; args.config_file: as typed
        ...
        write_json(args.json, report)

Whatever does not fit ends the command with exit code 2 and one line that names what would.
"""

import argparse
import ast
import difflib
import functools
import importlib.util
import json
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ml_collections import ConfigDict

from mmduplex_jax.compile_cache import OFF, CacheUnusable, keep_compiled

CONFIG_HELP = "a file in configs/ (or elsewhere); change its fields with --config.a.b=VALUE"
# Flags of commands that write a page.
_PAGES = ("html", "page")
_TRUE, _FALSE = ("true", "t", "1"), ("false", "f", "0")


def load_config(name: str | Path) -> ConfigDict:
    """What `get_config()` of a file returns; behind a colon its argument, as in `configs/chain_quickstart.py:clip`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no config, or it raises an error: named with its line.
    """
    file, colon, argument = str(name).partition(":")
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: there is no such config file{_similar_files(path)}")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{name}: a Python file with get_config() is expected")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ValueError(f"{name}: has no get_config()")
        return module.get_config(argument) if colon else module.get_config()
    except ValueError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        hint = ": run the command from the checkout's root" if isinstance(error, ModuleNotFoundError) else ""
        raise ValueError(f"{where}: {type(error).__name__}: {error}{hint}") from error


def _similar_files(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("configs")
    names = sorted(other.name for other in folder.glob("*.py") if other.stem != "__init__")
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {folder / close[0]}?"
    return f"; {folder} has {', '.join(names)}" if names else ""


def command_parser(name: str, doc: str | None, *, compiles: bool = True) -> argparse.ArgumentParser:
    """The parser of `python -m NAME`; the module's docstring is its help.

    A command of `launch` that compiles keeps its programs (`mmduplex_jax/compile_cache.py`) and has a flag for it;
    benchmarks do not, since they measure compiling.
    """
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=doc, formatter_class=form)
    if compiles and name.startswith("launch."):
        text = f"where compiled programs are kept for the next start, or {OFF} (default: among the user's caches)"
        parser.add_argument("--compile_cache", metavar=f"DIR|{OFF}", help=text)
    return parser


def add_config_flag(parser: argparse.ArgumentParser, *, required: bool = True, help: str = CONFIG_HELP) -> None:
    """Adds `--config=FILE.py`; `parse_args` reads it, with the `--config.a.b=VALUE` behind it."""
    parser.add_argument("--config", metavar="FILE.py", required=required, help=help)


def add_json_flag(parser: argparse.ArgumentParser, help: str = "write every number here as JSON") -> None:
    """Adds `--json=FILE`, `-` for standard output; `parse_args` checks it and `write_json` writes it."""
    parser.add_argument("--json", metavar="FILE", help=f"{help}; - for standard output, instead of lines to read")


def at_least(lowest: int) -> Callable[[str], int]:
    """A `type` of argparse: whole numbers from `lowest` on."""

    def number(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text) or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"a whole number from {lowest} on is expected, got {text!r}")
        return int(text)

    return number


def positive(text: str) -> float:
    """A `type` of argparse: a number above 0."""
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"must be more than 0, got {number:g}")
    return number


def listed(
    kind: Callable[[str], Any] = str, *, among: Collection[str] = (), none: bool = False
) -> Callable[[str], list[Any]]:
    """A `type` of argparse: values of a kind, with commas between them.

    Args:
      kind: `int`, `float` or `str`.
      among: what each must be one of, where that is given.
      none: whether there may be no value at all.
    """

    def values(text: str) -> list[Any]:
        words = [word.strip() for word in text.split(",") if word.strip()]
        if not words and not none:
            raise argparse.ArgumentTypeError("at least one value is expected")
        if among and (unknown := [word for word in words if word not in among]):
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {','.join(among)}")
        try:
            return [kind(word) for word in words]
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{kind.__name__}s with commas are expected, got {text!r}") from error

    return values


def check_files(files: Mapping[str, Path], source: str) -> None:
    """Raises ValueError where files cannot be written: by flag, their absolute paths, and what they are made from."""
    for flag, path in files.items():
        if not path.parent.is_dir():
            raise ValueError(f"--{flag}={path}: there is no folder {path.parent}")
        if path.is_dir() or path.resolve() == Path(source).resolve():
            raise ValueError(f"--{flag}={path} would overwrite {'a folder' if path.is_dir() else 'the source'}")
    if len(set(files.values())) < len(files):
        raise ValueError(f"{', '.join(f'--{flag}' for flag in files)} need a file each")


def shown_on(target: str | None) -> TextIO:
    """Where lines to read go: where standard output is taken by JSON, to standard error."""
    return sys.stderr if target == "-" else sys.stdout


def write_json(target: str | None, report: Any) -> None:
    """Writes a report where `--json` asks for it, if it does."""
    if target is None:
        return
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        Path(target).write_text(text, encoding="utf-8")


def show(args: argparse.Namespace, report: Any, text: str) -> None:
    """Writes a report where `--json` asks for it, and its text where `--markdown` does.

    The text is printed, too, unless standard output is taken by JSON.
    """
    if args.json != "-":
        print(text)
    write_json(args.json, report)
    if getattr(args, "markdown", None):
        Path(args.markdown).write_text(f"{text.rstrip()}\n", encoding="utf-8")


def parse_args(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None, *, short: Mapping[str, str] | None = None
) -> argparse.Namespace:
    """Parses a command line, the fields of its config among it. What does not fit exits with code 2 and one line.

    Args:
      parser: with `add_config_flag` where the command takes a config, `add_json_flag` where it writes JSON.
      argv: without the program's name; `sys.argv` where it is not given.
      short: further beginnings of fields: `{"mesh": "mesh"}` reads `--mesh.fsdp=8` as `--config.mesh.fsdp=8`.

    Returns:
      The flags; `config` is a locked ConfigDict (None where it is not given), `config_file` what was typed for it. With
      `--only_check_args`, where the command has no such flag itself, it exits with 0 instead.
    """
    # A mistake is one line; argparse would print every flag before it.
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: error: {message}\n")  # type: ignore[method-assign]
    own_check = "--only_check_args" in parser.format_usage()
    if not own_check:
        parser.add_argument("--only_check_args", action="store_true", help="read the flags and the config, and stop")
    rest = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(rest):
        parser.parse_args(["--help"])
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--config")
    file = before.parse_known_args(rest)[0].config
    prefixes = {"config": ""} | {name: f"{field}." for name, field in (short or {}).items()}
    override_flag = re.compile(rf"--?(no)?({'|'.join(prefixes)})\.([^=]+)(?:=(.*))?", re.DOTALL)
    config, flags = None, []
    try:
        config = load_config(file) if file else None
        while rest:
            argument = rest.pop(0)
            match = override_flag.fullmatch(argument)
            if not match:
                flags.append(argument)
                continue
            if config is None:
                raise ValueError(f"{argument} changes a field of a config: pass --config=FILE.py too")
            negated, head, name, text = match.groups()
            field = prefixes[head] + name
            if text is None and _type_of(config, field) is bool:
                text = "false" if negated else "true"
            elif text is None:
                if not rest:
                    raise ValueError(f"{argument} needs a value: {argument}=VALUE")
                text = rest.pop(0)
            override(config, field, text)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for flag in (argument.partition("=")[0] for argument in flags if argument.startswith("--")):
        known = [option for action in parser._actions for option in action.option_strings]
        if not any(option.startswith(flag) for option in known):
            close = difflib.get_close_matches(flag, known, n=1)
            parser.error(f"there is no flag {flag}" + (f"; did you mean {close[0]}?" if close else "; see --help"))
    args = parser.parse_args(flags)
    args.config_file = file or ""
    if config is not None:
        args.config = config.lock()
    for flag in ("json", *_PAGES):
        target = getattr(args, flag, None)
        if target == "-" and flag in _PAGES:
            parser.error(f"--{flag}=-: a page is a file that browsers open: name one, --{flag}=FILE.html")
        if target not in (None, "", "-") and not Path(target).absolute().parent.is_dir():
            parser.error(f"--{flag}={target}: there is no folder {Path(target).absolute().parent}")
    if args.only_check_args and not own_check:
        parser.exit(0)
    if "compile_cache" in args and not args.only_check_args:
        try:
            keep_compiled(args.compile_cache, for_children=True)
        except CacheUnusable as error:
            parser.error(f"--compile_cache={error}")
    return args


def run_main(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    work: Callable[[argparse.Namespace], int | None],
    codes: Mapping[type[Exception], int | None],
    *,
    stopped: str = "stopped",
    short: Mapping[str, str] | None = None,
) -> int:
    """A command's exit code: 0, what its work returns, or that of the error that ended it, which becomes one line.

    Args:
      parser, argv, short: see `parse_args`.
      work: does what the flags say.
      codes: of the errors that are foreseen, None for an error's own `code`; the first that fits counts.
      stopped: the line where Ctrl-C ends it, with code 130.
    """
    args = parse_args(parser, argv, short=short)
    try:
        return work(args) or 0
    except KeyboardInterrupt:
        code, line = 130, f"\n{parser.prog.rpartition('.')[2]}: {stopped}"
    except tuple(codes) as error:
        given = next(code for kind, code in codes.items() if isinstance(error, kind))
        code = error.code if given is None else given  # type: ignore[attr-defined]
        line = f"{parser.prog.rpartition('.')[2]}: {error}"
    print(line, file=sys.stderr, flush=True)
    return code


def override(config: ConfigDict, field: str, text: str) -> None:
    """Sets a field, `a.b`, from its text on a command line, by the type of the value that it has.

    Raises:
      ValueError: there is no such field (the nearest is named), or the text is no value of its type.
    """
    kind = _type_of(config, field)
    *parents, leaf = field.split(".")
    parent = functools.reduce(lambda node, name: node[name], parents, config)
    try:
        parent[leaf] = _value(text, kind)
    except (SyntaxError, TypeError, ValueError) as error:
        now = parent[leaf].to_dict() if isinstance(parent[leaf], ConfigDict) else parent[leaf]
        expected = _KINDS.get(kind, kind.__name__)
        raise ValueError(f"--config.{field}={text}: {expected} is expected, such as {now!r}") from error


_KINDS = {bool: "True or False", int: "a whole number", float: "a number", tuple: "a tuple", ConfigDict: "a dict"}


def _value(text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise ValueError(text)
        return text.lower() in _TRUE
    if kind in (int, float, str):
        return kind(text)
    if kind is tuple:
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        return tuple(value) if isinstance(value, (list, tuple)) else (value,)
    value = ast.literal_eval(text)
    if not issubclass(kind, ConfigDict):
        return value
    if not isinstance(value, dict):
        raise TypeError(text)
    return ConfigDict(value)


def _type_of(config: ConfigDict, field: str) -> type:
    node: Any = config
    *parents, leaf = field.split(".")
    for name in parents:
        node = node[name] if isinstance(node, ConfigDict) and name in node else None
    if not isinstance(node, ConfigDict) or leaf not in node:
        raise ValueError(f"--config.{field}: there is no such field{_similar_fields(config, field)}")
    return node.get_type(leaf)


def _similar_fields(config: ConfigDict, field: str) -> str:
    names = list(_fields(config))
    leaf = field.rpartition(".")[2]
    same = [name for name in names if name.rpartition(".")[2] == leaf]
    close = same[:3] or difflib.get_close_matches(field, names, n=1, cutoff=0.6)
    close = close or [name for name in names if difflib.get_close_matches(leaf, [name.rpartition(".")[2]], cutoff=0.7)]
    if close:
        return "; did you mean " + " or ".join(f"--config.{name}" for name in close[:3]) + "?"
    return f"; at the top there are {', '.join(sorted(config))}"


def _fields(node: ConfigDict, prefix: str = "") -> Iterator[str]:
    for name in node:
        value = node[name]
        yield prefix + name
        if isinstance(value, ConfigDict):
            yield from _fields(value, f"{prefix}{name}.")
