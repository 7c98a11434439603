"""A grid: methods x backbones x noise ratios x seeds, read from a YAML file."""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from llmhd_pl import bundled
from llmhd_pl.compare.code import class_paths, code_digest
from llmhd_pl.compare.grid_file import Check, Layer, check_names, check_not_of_the_grid, joined, option

_REQUIRED = ("output", "base", "methods", "backbones", "noise_ratios", "seeds")
_DATA_DIR = ("--data.data_dir", "--data.init_args.data_dir")
_SOURCES = ("data_dir", "interactions", "items")
"""The arguments of data modules that name files, or a folder of them."""


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
            ValueError: If a key is missing, unknown or there twice, has a value of another kind, or names what does not
                exist.
        """
        path = bundled.find(str(name), bundled.GRIDS)
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        if not isinstance(content, dict):
            raise ValueError(f"{path} is not a grid: it has no keys.")
        check_names(yaml.compose(text, yaml.SafeLoader), path)
        keys = {field.name for field in fields(cls)} - {"name"}
        for key in _REQUIRED:
            if key not in content:
                raise ValueError(f"{path}: key {key!r} is missing.")
        for key in sorted(content.keys() - keys):
            raise ValueError(f"{path}: key {key!r} is unknown; the keys are {', '.join(sorted(keys))}.")
        check = Check(path)
        methods, backbones = (check.overlays(key, content[key]) for key in ("methods", "backbones"))
        reference = content.get("reference")
        if reference is not None and reference not in methods:
            raise ValueError(f"{path}: reference is {reference!r}, but the methods are {', '.join(methods)}.")
        exclude = check.list_of(dict, "exclude", content.get("exclude", []))
        for pair in exclude:
            if pair.get("method") not in methods or pair.get("backbone") not in backbones:
                raise ValueError(f"{path}: exclude has {pair}, which is no method and backbone of the grid.")
        given = joined([*check.list_of(str, "arguments", content.get("arguments", [])), *more])
        base = check.layers("base", content["base"])
        for layer in (*given, *itertools.chain(base, *methods.values(), *backbones.values())):
            check_not_of_the_grid(layer, path)
        processes = content.get("processes", 1)
        if not isinstance(processes, int) or processes < 1:
            raise ValueError(f"{path}: processes is {processes!r}; it must be a number of at least 1.")
        return cls(
            name=path.stem,
            output=Path(check.one(str, "output", content["output"])),
            base=base,
            methods=methods,
            backbones=backbones,
            noise_ratios=tuple(map(float, check.list_of((int, float), "noise_ratios", content["noise_ratios"]))),
            seeds=check.list_of(int, "seeds", content["seeds"]),
            arguments=given,
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
        merged, arguments, _ = self._settings(run)
        merged["seed_everything"] = run.seed
        data = merged.setdefault("data", {}).setdefault("init_args", {})
        data["noise_ratio"] = run.noise_ratio
        data.pop("data_dir", None)
        # What JSON does not have is a date of YAML.
        return hashlib.sha256(json.dumps([merged, arguments], sort_keys=True, default=str).encode()).hexdigest()[:16]

    def data(self, run: Run) -> str | None:
        """Return the name of the folder that a run reads its data from; None for data that is made on the spot."""
        folder = self._settings(run)[2].get("data_dir")
        return None if folder is None else Path(folder).resolve().name

    def data_digest(self, run: Run) -> str | None:
        """Return a hash of the files that a run reads its data from; None if there are none.

        Where the files are does not change it. Of a folder, all files count, but not those in folders within it.
        """
        data, found = self._settings(run)[2], []
        for name in _SOURCES:
            path = Path(data[name]) if isinstance(data.get(name), str) else None
            if path is not None and path.is_dir():
                inside = (file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
                found += [(name, file.name, _file_digest(file)) for file in sorted(inside)]
            elif path is not None and path.is_file():
                found.append((name, "", _file_digest(path)))
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16] if found else None

    def code_digest(self, run: Run) -> str | None:
        """Return a hash of the user's own code that a run loads; None if there is none."""
        merged, arguments, _ = self._settings(run)
        return code_digest(*class_paths([merged, *(option(argument)[1] for argument in arguments)]))

    def _settings(self, run: Run) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
        """Return the merged configuration, the other arguments, and the arguments of the data module."""
        merged: dict[str, Any] = {}
        arguments: list[str] = []
        data: dict[str, Any] = {}
        for layer in (*self.layers(run), *self.arguments):
            if isinstance(layer, str):
                name, _, value = layer.partition("=")
                if name != "--config":
                    if name.startswith("--data."):
                        data[name.removeprefix("--data.").removeprefix("init_args.")] = value
                    if name not in _DATA_DIR:
                        arguments.append(layer)
                    continue
                layer = bundled.find(value)  # what is in it counts, not what it is called
            loaded = yaml.safe_load(layer.read_text(encoding="utf-8")) if isinstance(layer, Path) else layer
            merged = _merge(merged, loaded or {})
            data |= ((loaded or {}).get("data") or {}).get("init_args") or {}
        return merged, arguments, data


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one mapping over another, key by key. Neither is changed, nor is a mapping in one part of the result."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping):
            old = merged.get(key)
            value = _merge(old if isinstance(old, Mapping) else {}, value)
        merged[key] = value
    return merged


def _file_digest(path: Path) -> str:
    status = path.stat()
    return _digest_of(path.resolve(), status.st_size, status.st_mtime_ns)


@cache
def _digest_of(path: Path, size: int, changed: int) -> str:
    """Return the hash of a file, which is read anew only if its size or its time has changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
