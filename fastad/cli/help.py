"""The help of a command, from its dataclass and the docstrings of its fields."""

from collections.abc import Iterator
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from typing import Annotated, Any, NoReturn, get_args, get_origin, get_type_hints

from fastad.base.docs import field_texts

CONFIG_HELP = {
    "FILE|PRESET": "Settings to begin with: a preset (`fastad presets` lists them) or a YAML file, "
    "such as the config.yaml of a run. Options override it.",
    "FILE": "Settings to begin with: a YAML file. Options override it.",
}


TRUST_HELP = (
    "Code that a dataset, run or config may have run, by the name that it has there, as "
    "treasure:make; several with commas between. Needed once for files from elsewhere: what you "
    "collected yourself is known."
)


def show_help(usage: str, kind: Any, default: Any, settings: str, *, trust: bool) -> NoReturn:
    """Print the help of a command.

    Args:
        usage: How it is called, without options.
        kind: Its dataclass.
        default: An instance whose values are shown as the defaults; None: those of `kind`.
        settings: What --config takes, a key of `CONFIG_HELP`; "" if there is no such option.
        trust: Whether there is the option --trust.

    Raises:
        SystemExit: Always.
    """
    import tyro

    shown = list(_shown(kind, default))
    if settings:
        told = tyro.conf.arg(metavar=settings, help=CONFIG_HELP[settings], help_behavior_hint="")
        shown.insert(0, ("config", Annotated[str | None, told], field(default=None)))
    if trust:
        told = tyro.conf.arg(metavar="NAME,...", help=TRUST_HELP, help_behavior_hint="")
        shown.insert(1, ("trust", Annotated[str | None, told], field(default=None)))
    tyro.cli(
        _dataclass(kind, shown),
        prog=usage,
        args=["--help"],
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.AvoidSubcommands),
    )
    raise AssertionError("tyro exits after the help")


def _shown(kind: Any, default: Any) -> Iterator[tuple[str, Any, Any]]:
    """Fields of `kind`: their names, types as the help shows them, and defaults."""
    import tyro

    hints, texts = get_type_hints(kind), field_texts(kind)
    for setting in fields(kind):
        name, hint = setting.name, hints[setting.name]
        value = _default(setting) if default is None else getattr(default, name)
        if is_dataclass(hint):
            hint = _dataclass(hint, list(_shown(hint, value)))
            value = hint()
        else:
            # What None or no word at all means is said in the text.
            said = "" if value is None or value == () else None
            told = tyro.conf.arg(metavar=_metavar(name, hint), help_behavior_hint=said)
            hint = Annotated[hint, told]
        yield name, hint, field(default=value, metadata={"help": texts[name]})


def _dataclass(kind: Any, shown: list[tuple[str, Any, Any]]) -> Any:
    made = make_dataclass(kind.__name__, shown, frozen=True, kw_only=True)
    made.__doc__ = kind.__doc__
    return made


def _default(setting: Field[Any]) -> Any:
    if setting.default_factory is not MISSING:
        return setting.default_factory()
    return setting.default


def _metavar(name: str, hint: Any) -> str | None:
    """What stands for a value that may be left out, or for many; None: as tyro has it."""
    parts = get_args(hint)
    if get_origin(hint) is tuple and parts[-1] is Ellipsis:
        return "KEY=VALUE ..." if name.endswith("_options") else f"{name.upper()} ..."
    if name == "vary":
        return "NAME=VALUE,..."
    kinds = [kind for kind in parts if kind is not type(None)]
    if len(kinds) < len(parts) and len(kinds) == 1 and isinstance(kinds[0], type):
        return kinds[0].__name__.upper()
    return None
