"""The file of a grid: what its values must be, and what it may not set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from llmhd_pl import bundled

Layer = Path | Mapping[str, Any]
"""What is laid over the configuration below it: a config file, or what a config file would contain."""


class Check:
    """Checks the values of a grid's file; a ``ValueError`` names the file and the key of a wrong one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def one(self, kind: Any, key: str, value: Any) -> Any:
        """Return a value of this kind, or of one of these kinds."""
        if not isinstance(value, kind) or isinstance(value, bool):
            wanted = " or ".join(_NAMES[kind] for kind in (kind if isinstance(kind, tuple) else (kind,)))
            raise ValueError(f"{self.path}: {key} has {value!r}, which is not {wanted}.")
        return value

    def list_of(self, kind: Any, key: str, value: Any) -> tuple[Any, ...]:
        """Return the entries of a list, all of this kind."""
        if not isinstance(value, list):
            raise ValueError(f"{self.path}: {key} is {value!r}; it must be a list.")
        return tuple(self.one(kind, key, entry) for entry in value)

    def layers(self, key: str, value: Any) -> tuple[Layer, ...]:
        """Return configurations; files and bundled ones are found by their names."""
        layers: list[Layer] = []
        for entry in value if isinstance(value, list) else [value]:
            entry = self.one((str, dict), key, entry)
            try:
                layers.append(bundled.find(entry) if isinstance(entry, str) else entry)
            except FileNotFoundError as error:
                raise ValueError(
                    f"{self.path} names {entry}, which is no file. Paths are relative to {Path.cwd()}; bundled are "
                    f"{', '.join(bundled.names())}."
                ) from error
        return tuple(layers)

    def overlays(self, key: str, value: Any) -> dict[str, tuple[Layer, ...]]:
        """Return configurations by name."""
        if not isinstance(value, dict) or not value:
            raise ValueError(f"{self.path}: {key} is {value!r}; it must map names to what is laid over the base.")
        return {str(name): self.layers(f"{key}, {name},", entry) for name, entry in value.items()}


_NAMES = {str: "a text", dict: "a mapping", int: "a whole number", float: "a number"}


def check_not_of_the_grid(layer: str | Layer, path: Path) -> None:
    """Check that an argument, or a part of the grid's file, does not set what the grid sets for each of its runs."""
    if isinstance(layer, str):
        name, value = option(layer)
        *parents, last = name.replace("data.noise_ratio", "data.init_args.noise_ratio").split(".")
        layer = {last: value}
        for key in reversed(parents):
            layer = {key: layer}
    if isinstance(layer, Path):
        return  # a file may be meant for single runs, too
    data = layer.get("data")
    arguments = data.get("init_args") if isinstance(data, Mapping) else None
    for key, where in (("seed_everything", layer), ("noise_ratio", arguments)):
        if isinstance(where, Mapping) and key in where:
            raise ValueError(
                f"{path}: {key} is set to {where[key]!r}, but a grid sets it for each of its runs. Put it into "
                f"{'seeds' if key == 'seed_everything' else 'noise_ratios'}."
            )


def option(argument: str) -> tuple[str, Any]:
    """Return the name of an argument without its hyphens, and its value as YAML reads it.

    Args:
        argument: An argument, as in "--data.noise_ratio=0.2".
    """
    name, _, text = argument.lstrip("-").partition("=")
    try:
        return name, yaml.safe_load(text)
    except yaml.YAMLError:
        return name, text


def joined(arguments: Sequence[str]) -> tuple[str, ...]:
    """Write every option and its value as one argument, ``--option=value``."""
    joined: list[str] = []
    for argument in arguments:
        argument = "--config" if argument == "-c" else argument
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and not argument.startswith("--"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return tuple(joined)


def check_names(node: yaml.Node, path: Path) -> None:
    """Check that no key is in a mapping twice, of which YAML would keep the last."""
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value]
        for key, value in node.value:
            if names.count(key.value) > 1:
                line = key.start_mark.line + 1
                raise ValueError(f"{path}, line {line}: {key.value!r} occurs twice. Rename or remove one of the two.")
            check_names(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            check_names(entry, path)
