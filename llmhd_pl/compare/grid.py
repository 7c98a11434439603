"""A grid: methods x backbones x noise ratios x seeds, read from a YAML file."""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from llmhd_pl import bundled

Layer = Path | Mapping[str, Any]
"""What is laid over the configuration below it: a config file, or what a config file would contain."""

_REQUIRED = ("output", "base", "methods", "backbones", "noise_ratios", "seeds")
_DATA_DIR = ("--data.data_dir=", "--data.init_args.data_dir=")


@dataclass(frozen=True)
class Run:
    """One cell of a grid."""

    method: str
    backbone: str
    noise_ratio: float
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        words = re.sub(r"[^A-Za-z0-9.]+", "-", f"{self.method}-{self.backbone}").strip("-").lower()
        return f"{words}-noise{self.noise_ratio:g}-seed{self.seed}"


@dataclass(frozen=True)
class Grid:
    """A grid of runs. All but ``name`` are the keys of the YAML file.

    Attributes:
        name: The name of the file; the records and the tables bear it.
        output: The folder of the records and tables, relative to the working directory. Grids that share it also share
            the runs that they have in common.
        base: What all runs share: in the file, a list of config files, names of bundled ones, or what a config would
            contain.
        methods: What is laid over the base and the backbone, by the name of the method; in the file as for the base, or
            one of these instead of a list.
        backbones: What is laid over the base, by the name of the backbone.
        noise_ratios: The noise ratios.
        seeds: The seeds.
        arguments: Further arguments of every run.
        processes: The number of runs at the same time.
        reference: The method that the others are tested against; None tests nothing.
        exclude: Pairs of method and backbone that are not run together; in the file, mappings with these two keys.
    """

    name: str
    output: Path
    base: tuple[Layer, ...]
    methods: Mapping[str, tuple[Layer, ...]]
    backbones: Mapping[str, tuple[Layer, ...]]
    noise_ratios: tuple[float, ...]
    seeds: tuple[int, ...]
    arguments: tuple[str, ...] = ()
    processes: int = 1
    reference: str | None = None
    exclude: tuple[tuple[str, str], ...] = ()

    @classmethod
    def load(cls, name: str | Path, more: Sequence[str] = ()) -> "Grid":
        """Read a grid.

        Args:
            name: A YAML file, or the name of a bundled grid, such as ``yelp``.
            more: Arguments of every run, after those of the file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If a key is missing or unknown, has a value of another kind, or names what does not exist.
        """
        path = bundled.find(str(name), bundled.GRIDS)
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"{path} is not a grid: it has no keys.")
        keys = {field.name for field in fields(cls)} - {"name"}
        for key in _REQUIRED:
            if key not in content:
                raise ValueError(f"{path}: key {key!r} is missing.")
        for key in sorted(content.keys() - keys):
            raise ValueError(f"{path}: key {key!r} is unknown; the keys are {', '.join(sorted(keys))}.")
        check = _Check(path)
        methods, backbones = (check.overlays(key, content[key]) for key in ("methods", "backbones"))
        reference = content.get("reference")
        if reference is not None and reference not in methods:
            raise ValueError(f"{path}: reference is {reference!r}, but the methods are {', '.join(methods)}.")
        exclude = check.list_of(dict, "exclude", content.get("exclude", []))
        for pair in exclude:
            if pair.get("method") not in methods or pair.get("backbone") not in backbones:
                raise ValueError(f"{path}: exclude has {pair}, which is no method and backbone of the grid.")
        processes = content.get("processes", 1)
        if not isinstance(processes, int) or processes < 1:
            raise ValueError(f"{path}: processes is {processes!r}; it must be a number of at least 1.")
        return cls(
            name=path.stem,
            output=Path(check.one(str, "output", content["output"])),
            base=check.layers("base", content["base"]),
            methods=methods,
            backbones=backbones,
            noise_ratios=tuple(map(float, check.list_of((int, float), "noise_ratios", content["noise_ratios"]))),
            seeds=check.list_of(int, "seeds", content["seeds"]),
            arguments=_joined([*check.list_of(str, "arguments", content.get("arguments", [])), *more]),
            processes=processes,
            reference=reference,
            exclude=tuple((pair["method"], pair["backbone"]) for pair in exclude),
        )

    def runs(self) -> list[Run]:
        """Return all runs, the first seed of everything first."""
        cells = itertools.product(self.seeds, self.noise_ratios, self.backbones, self.methods)
        return [
            Run(method, backbone, noise, seed)
            for seed, noise, backbone, method in cells
            if (method, backbone) not in self.exclude
        ]

    def layers(self, run: Run) -> tuple[Layer, ...]:
        """Return what a run is configured by, each to be laid over those before it."""
        return (*self.base, *self.backbones[run.backbone], *self.methods[run.method])

    def configuration(self, run: Run) -> str:
        """Return a hash of everything that decides what a run does, except for the folder of its data.

        Comments, the order of keys, and how the configuration is spread over files do not change it.
        """
        merged, arguments = self._merged(run), []
        for argument in self.arguments:
            name, _, value = argument.partition("=")
            if name == "--config" and Path(value).is_file():  # what is in it counts, not what it is called
                merged = _merge(merged, yaml.safe_load(Path(value).read_text(encoding="utf-8")) or {})
            elif not argument.startswith(_DATA_DIR):
                arguments.append(argument)
        merged["seed_everything"] = run.seed
        data = merged.setdefault("data", {}).setdefault("init_args", {})
        data["noise_ratio"] = run.noise_ratio
        data.pop("data_dir", None)
        return hashlib.sha256(json.dumps([merged, arguments], sort_keys=True).encode()).hexdigest()[:16]

    def data(self, run: Run) -> str | None:
        """Return the name of the folder that a run reads its data from; None for data that is made on the spot."""
        folders = [self._merged(run).get("data", {}).get("init_args", {}).get("data_dir")]
        folders += [argument.partition("=")[2] for argument in self.arguments if argument.startswith(_DATA_DIR)]
        return None if folders[-1] is None else Path(folders[-1]).resolve().name

    def _merged(self, run: Run) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for layer in self.layers(run):
            content = yaml.safe_load(layer.read_text(encoding="utf-8")) if isinstance(layer, Path) else layer
            merged = _merge(merged, content or {})
        return merged


class _Check:
    """Checks the values of a grid's file, and names the file and the key of a wrong one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def one(self, kind: Any, key: str, value: Any) -> Any:
        if not isinstance(value, kind) or isinstance(value, bool):
            wanted = " or ".join(_NAMES[kind] for kind in (kind if isinstance(kind, tuple) else (kind,)))
            raise ValueError(f"{self.path}: {key} has {value!r}, which is not {wanted}.")
        return value

    def list_of(self, kind: Any, key: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"{self.path}: {key} is {value!r}; it must be a list.")
        return tuple(self.one(kind, key, entry) for entry in value)

    def layers(self, key: str, value: Any) -> tuple[Layer, ...]:
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
        if not isinstance(value, dict) or not value:
            raise ValueError(f"{self.path}: {key} is {value!r}; it must map names to what is laid over the base.")
        return {str(name): self.layers(f"{key}, {name},", entry) for name, entry in value.items()}


_NAMES = {str: "a text", dict: "a mapping", int: "a whole number", float: "a number"}


def _joined(arguments: Sequence[str]) -> tuple[str, ...]:
    """Write every option and its value as one argument, ``--option=value``."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and not argument.startswith("--"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return tuple(joined)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one mapping over another, key by key."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
