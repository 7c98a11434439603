"""Pickles that try to run code, and small ones that ask for much memory or time."""

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llmhd_pl.datamodules import RefusedPickleError, Yelp
from tests.campaign.outcomes import refused
from tests.campaign.rlmrec_folder import AGAIN, bad, changed, matrix, prepare


def attack(code: Callable[[str], bytes], name: str = "trn_mat.pkl") -> Callable[[Path], str]:
    """A case in which a pickle tries to run a command that leaves a file behind."""

    def check(folder: Path) -> str:
        trace = folder / "trace"
        path = prepare(folder, name, code(str(trace)))
        refused(lambda: Yelp(str(folder)).setup(), RefusedPickleError, path, "refused and nothing in it was run")
        assert not trace.exists(), "it was run"
        return "refused, naming the file and what it wants; nothing was run"

    return check


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> Any:
        return self.called


def call(function: Any, wrap: Callable[[Any], Any] = lambda evil: evil, protocol: int = 4) -> Callable[[str], bytes]:
    def code(trace: str) -> bytes:
        argument = f"open({trace!r}, 'w')" if function in (eval, exec) else f"touch {trace}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pickle.dumps(wrap(Call(function, argument)), protocol)

    return code


def in_matrix(name: str) -> Callable[[Any], Any]:
    def wrap(evil: Any) -> Any:
        damaged = matrix()
        setattr(damaged, name, np.array([evil] * 3, dtype=object) if name == "data" else evil)
        return damaged

    return wrap


def unicode(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def nested(step: bytes, levels: int = 40) -> bytes:
    """A key of a dict that holds another object twice, and so on."""
    return b"\x80\x04)" + b"".join(b"q\1h\1" + step for _ in range(levels)) + b"q\2}h\2Ns."


def attacks() -> dict[str, Callable[[Path], str]]:
    """Attempts to run code."""
    codes: dict[str, Callable[[str], bytes]] = {
        f"os.system, protocol {protocol}": call(os.system, protocol=protocol) for protocol in range(6)
    }
    codes |= {
        "eval": call(eval),
        "exec": call(exec),
        "os.popen": call(os.popen),
        "in a list": call(os.system, lambda evil: [evil]),
        "as a key": call(os.system, lambda evil: {evil: 1}),
        "in the values of a matrix": call(os.system, in_matrix("data")),
        "in an attribute of a matrix": call(os.system, in_matrix("maxprint")),
        "in the shape of a matrix": call(os.system, in_matrix("_shape")),
        "GLOBAL and REDUCE": lambda trace: f"cos\nsystem\n(S'touch {trace}'\ntR.".encode(),
        "INST": lambda trace: f"(S'touch {trace}'\nios\nsystem\n.".encode(),
        "OBJ": lambda trace: f"(cos\nsystem\nS'touch {trace}'\no.".encode(),
        "STACK_GLOBAL": lambda trace: (
            b"\x80\4" + unicode("os") + unicode("system") + b"\x93" + unicode(f"touch {trace}") + b"\x85R."
        ),
        "STACK_GLOBAL of a method": lambda trace: b"\x80\4" + unicode("numpy") + unicode("ndarray.tofile") + b"\x93.",
        "NEWOBJ": lambda trace: b"\x80\2csubprocess\nPopen\n" + f"X{chr(5)}\0\0\0touch".encode() + b"\x85\x81.",
        "NEWOBJ_EX": lambda trace: b"\x80\4" + unicode("subprocess") + unicode("Popen") + b"\x93)}\x92.",
        "BUILD of a class": lambda trace: b"cbuiltins\nobject\n}b.",
        "getattr": lambda trace: b"cbuiltins\ngetattr\n(cos\nS'system'\ntR.",
        "importlib": lambda trace: b"cimportlib\nimport_module\n(S'this'\ntR.",
        "numpy.load": lambda trace: b"cnumpy\nload\n(S'x'\ntR.",
        "copyreg": lambda trace: b"ccopyreg\n_reconstructor\n.",
        "the extension registry, 1 byte": lambda trace: b"\x80\2\x82\1.",
        "the extension registry, 2 bytes": lambda trace: b"\x80\2\x83\1\0.",
        "the extension registry, 4 bytes": lambda trace: b"\x80\2\x84\1\0\0\0.",
        "a persistent object": lambda trace: b"Pname\n.",
        "a persistent object from the stack": lambda trace: b"\x80\2NQ.",
        "a buffer from outside": lambda trace: b"\x80\5\x97.",
        "in a part that is thrown away": lambda trace: f"cos\nsystem\n(S'touch {trace}'\ntR0N.".encode(),
        "behind a whole matrix": lambda trace: (
            pickle.dumps(matrix(), 4)[:-1] + f"cos\nsystem\n(S'touch {trace}'\ntR.".encode()
        ),
    }
    checks = {name: attack(code) for name, code in codes.items()}
    return checks | {
        f"in {name}": attack(call(os.system, lambda evil: {0: {"profile": evil}}), name)
        for name in ("itm_prf.pkl", "low_mat.pkl", "val_mat.pkl", "tst_mat.pkl")
    }


def bombs() -> dict[str, Callable[[Path], str]]:
    """Small files that ask for much memory or time."""
    much = (2**40).to_bytes(8, "little")
    raw = {
        "nine bytes": b"\x80\2Nr\0\0\0\x08.",
        "a kept object's number in text": b"Np1099511627776\n.",
        "a negative number": b"Np-1\n.",
        "BINBYTES8": b"\x80\4\x8e" + much + b"x.",
        "BINBYTES": b"\x80\3B\xff\xff\xff\x7fx.",
        "BINUNICODE8": b"\x80\4\x8d" + much + b"x.",
        "BINUNICODE": b"\x80\2X\xff\xff\xff\x7fx.",
        "BINSTRING": b"T\xff\xff\xff\x7fx.",
        "BYTEARRAY8": b"\x80\5\x96" + much + b"x.",
        "LONG4": b"\x80\2\x8b\xff\xff\xff\x7fx.",
        "FRAME": b"\x80\4\x95" + much + b"N.",
        "tuples of two": nested(b"\x86"),
        "tuples of three": b"\x80\4)" + b"q\1h\1h\1\x87" * 30 + b"q\2}h\2Ns.",
        "tuples under marks": b"\x80\4)" + b"q\1(h\1h\1t" * 40 + b"q\2}h\2Ns.",
        "tuples that are doubled": b"\x80\4)" + b"2\x86" * 40 + b"q\2}h\2Ns.",
        "a set": b"\x80\4\x8f.",
        "a frozenset": b"\x80\4(K\1\x91.",
    }
    checks = {name: bad("trn_mat.pkl", content, AGAIN) for name, content in raw.items()}
    for name in ("nine bytes", "tuples of two", "BYTEARRAY8"):
        kind = ValueError if name == "BYTEARRAY8" else RefusedPickleError
        checks[f"{name}, as profiles"] = bad("itm_prf.pkl", raw[name], AGAIN, kind=kind)
    for name in ("nine bytes", "a kept object's number in text", "a negative number", *list(raw)[11:]):
        checks[name] = bad("trn_mat.pkl", raw[name], AGAIN, kind=RefusedPickleError)
    for shape in ((10**9, 1000), (3, 10**12), (10**6, 4)):
        content = pickle.dumps(matrix(shape=shape), 4)
        checks[f"a matrix of {shape[0]} x {shape[1]}"] = bad(
            "trn_mat.pkl", content, "for 3 interactions", "Number those"
        )
    checks["a matrix of 10**30 x 10**30"] = bad("trn_mat.pkl", changed(_shape=(10**30, 10**30)), "a shape of", AGAIN)
    checks["a matrix of 10**5000 x 4"] = bad("trn_mat.pkl", changed(_shape=(10**5000, 4)), "a shape of <int>", AGAIN)
    checks["lists nested 100,000 deep"] = bad(
        "trn_mat.pkl", b"\x80\2" + b"]" * 100_000 + b"a" * 99_999 + b".", "holds a list", "is expected"
    )
    return checks
