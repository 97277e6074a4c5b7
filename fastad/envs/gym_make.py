"""Environments from outside by name: `gym:ID` or `package.module:callable`, and how one is made.

What differs between tasks are arguments of the constructor, or numbers that it sets itself:
CartPole's `masspole` is no argument, but an attribute. Such a one is set *while* the constructor
runs, in place of the value that it would have had, so that whatever the constructor derives from
it, as CartPole does its `total_mass`, is right as well. What a module or a class computes once for
all environments cannot follow; a callable of one's own can do anything.
"""

import dataclasses
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from fastad.base.errors import UserError, unknown

PREFIX = "gym:"
FIX = "correct it, or name a callable that makes the environment, as --env package.module:callable"


@dataclass(frozen=True)
class Maker:
    """Makes the environments of one name.

    Attributes:
        name: As the user wrote it.
        creator: A class, or a function that returns an environment.
        registered: What Gymnasium knows of it; None for a callable of one's own.
    """

    name: str
    creator: Callable[..., gymnasium.Env[Any, Any]]
    registered: EnvSpec | None = None

    def __post_init__(self) -> None:
        """Refuse what does not tell its arguments, as some of Python's own functions."""
        try:
            list(_signatures(self.creator))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"env={self.name} does not tell its arguments: {error}; {FIX}"
            ) from error

    def __call__(self, options: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
        """Make an environment with these arguments and attributes.

        Raises:
            UserError: If it cannot be made with them.
        """
        arguments = {k: self._fitted(k, v) for k, v in options.items() if takes(self.creator, k)}
        attributes = {k: v for k, v in options.items() if k not in arguments}
        if attributes and not inspect.isclass(self.creator):
            raise unknown(f"argument of {self.name}", next(iter(attributes)), self.parameters())

        def create(**arguments: Any) -> gymnasium.Env[Any, Any]:
            if not attributes:
                return self.creator(**arguments)
            made: gymnasium.Env[Any, Any] = _with_attributes(
                self.name, self.creator, arguments, attributes
            )
            return made

        try:
            if self.registered is None:
                env = create(**arguments)
            else:
                # Without a limit: the batch ends episodes itself.
                spec = dataclasses.replace(
                    self.registered, entry_point=create, max_episode_steps=None
                )
                env = gymnasium.make(spec, disable_env_checker=True, **arguments)
        except UserError:
            raise
        except Exception as error:  # somebody else's constructor may raise anything
            given = ", ".join(f"{key}={value!r}" for key, value in options.items())
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"env={self.name} cannot be made with ({given}): {reason}") from error
        if not isinstance(env, gymnasium.Env):
            raise UserError(
                f"env={self.name} makes a {type(env).__name__}, which is no gymnasium.Env; {FIX}"
            )
        return env

    def parameters(self) -> dict[str, Any]:
        """The named arguments, with their defaults (`inspect.Parameter.empty` for none)."""
        found: dict[str, Any] = {}
        for parameters in _signatures(self.creator):
            for name, parameter in parameters.items():
                if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                    found.setdefault(name, parameter.default)
        return found

    def attributes(self) -> dict[str, Any]:
        """What a class sets itself, as constants or while an instance is made, with the values.

        Raises:
            UserError: If it cannot be made without arguments.
        """
        if not inspect.isclass(self.creator):
            return {}
        env = self({}).unwrapped
        constants = {k: v for kind in type(env).__mro__[::-1] for k, v in vars(kind).items()}
        found = {**constants, **vars(env)}
        parameters = self.parameters()
        return {
            key: value
            for key, value in found.items()
            if key[0] != "_" and type(value) in (bool, int, float, str) and key not in parameters
        }

    def numbers(self) -> dict[str, float]:
        """Fractional numbers that tasks may differ in: arguments by default, then attributes."""
        found = {**self.parameters(), **self.attributes()}
        return {key: value for key, value in found.items() if type(value) is float}

    def _fitted(self, name: str, value: Any) -> Any:
        """JSON has no tuples; whoever has one by default is given one."""
        wants_tuple = isinstance(self.parameters().get(name), tuple)
        return tuple(value) if wants_tuple and isinstance(value, list) else value


def find_maker(name: str) -> Maker:
    """What makes the environments called `name`.

    Raises:
        UserError: If there is none, naming the nearest or what could not be imported.
    """
    if name.startswith(PREFIX):
        spec = _registered(name)
        creator: Any = spec.entry_point
        if creator is None:
            raise UserError(f"env={name} has a vector environment alone; {FIX}")
        if not callable(creator):
            with _importing(name, creator.partition(":")[0]):
                creator = load_env_creator(creator)
        return Maker(name, creator, spec)
    module, _, path = name.partition(":")
    with _importing(name, module):
        found: Any = import_module(module)
    for part in path.split("."):
        if not hasattr(found, part):
            choices = [key for key, value in vars(found).items() if callable(value)]
            raise unknown(f"environment in {module}", path, choices or [f"nothing in {module}"])
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"env={name} is a {type(found).__name__}, not a class or function; {FIX}")
    return Maker(name, found)


def takes(creator: Callable[..., Any], name: str) -> bool:
    """Whether a class or function has an argument `name`, or takes any."""
    signatures = list(_signatures(creator))
    if any(name in parameters for parameters in signatures):
        return True
    return bool(signatures) and _takes_any(signatures[-1])


def _signatures(creator: Callable[..., Any]) -> Iterator[Mapping[str, inspect.Parameter]]:
    """The parameters of a function; of a class, of its constructor and those it passes them to."""
    if not inspect.isclass(creator):
        yield inspect.signature(creator).parameters
        return
    for kind in creator.__mro__:
        if "__init__" in vars(kind) and kind is not object:
            own = dict(inspect.signature(vars(kind)["__init__"]).parameters)
            own.pop(next(iter(own), ""), None)  # self
            yield own
            if not _takes_any(own):
                return


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _with_attributes(
    name: str, kind: Any, arguments: Mapping[str, Any], attributes: Mapping[str, Any]
) -> Any:
    """An instance of a class, with attributes set in place of what its constructor sets."""
    seen: set[str] = set()

    class Changed(kind):
        def __setattr__(self, key: str, value: Any) -> None:
            seen.add(key)
            super().__setattr__(key, attributes.get(key, value))

    env = Changed.__new__(Changed)
    # Where they are constants of the class, the constructor sees these already.
    env.__dict__.update(attributes)
    kind.__init__(env, **arguments)
    env.__class__ = kind
    for key, value in attributes.items():
        if key not in seen and not hasattr(kind, key):
            raise unknown(f"argument or attribute of {name}", key, {*seen, *_arguments(kind)})
        setattr(env, key, value)
    return env


def _arguments(kind: type[Any]) -> Iterator[str]:
    for parameters in _signatures(kind):
        yield from parameters


def _registered(name: str) -> EnvSpec:
    """What Gymnasium knows of `gym:ID` or, where a module must be imported first, `gym:module:ID`.

    Raises:
        UserError: If it knows none.
    """
    module, _, wanted = name.removeprefix(PREFIX).rpartition(":")
    if module:
        with _importing(name, module):
            import_module(module)
    if wanted in gymnasium.registry:
        return gymnasium.registry[wanted]
    if get_close_matches(wanted, gymnasium.registry):
        raise unknown("environment of Gymnasium", wanted, gymnasium.registry)
    # Packages register theirs when they are imported; many begin with the package's name.
    package = wanted.partition("-")[0].partition("/")[0].lower()
    is_there = package.isidentifier() and find_spec(package) is not None
    raise UserError(
        f"unknown environment of Gymnasium {wanted!r}; if a package registers it, name that too: "
        f"--env gym:{package if is_there else 'PACKAGE'}:{wanted}"
    )


@contextmanager
def _importing(name: str, module: str) -> Iterator[None]:
    """Find modules in the current folder too; say what could not be imported."""
    # Last: what lies about in a folder must not take the place of an installed package.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UserError(
                f"env={name}: importing {module!r} needs the module {error.name!r}, which is not "
                "installed; install it"
            ) from error
        raise UserError(
            f"env={name}: there is no module {error.name!r}, neither installed nor in "
            f"{os.getcwd()}; check the name, or begin in the folder that holds it"
        ) from error
    except Exception as error:  # somebody else's module may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"env={name}: {module!r} cannot be imported: {reason}") from error
