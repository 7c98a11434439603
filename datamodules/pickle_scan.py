"""What a pickle would do to the unpickler, found out by reading its opcodes without executing any.

The unpickler itself trusts the sizes that a file of nine bytes names: it allocates memory for the largest number under
which an object is kept, and the hash of a tuple that holds another twice, 40 levels deep, takes 2**40 steps.
"""

import io
import pickletools
from typing import Any

_FORBIDDEN = {
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), "an object of the extension registry"),
    **dict.fromkeys(("PERSID", "BINPERSID"), "an object that is not in the file"),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), "a buffer that is not in the file"),
    **dict.fromkeys(("EMPTY_SET", "FROZENSET", "ADDITEMS"), "a set"),
    **dict.fromkeys(("POP", "POP_MARK", "DUP"), "an object to be thrown away or doubled"),
}
"""What no pickled matrix and no dict of texts contains, by opcode."""
_TIMES_FILE = 100
"""The objects that a pickle may unfold to, for each of its bytes, if what occurs several times is counted each time."""


def find_forbidden(raw: bytes) -> str | None:
    """Find a reason for which a pickle must not be read although it may be whole.

    Args:
        raw: The content of the file.

    Returns:
        What the pickle asks for, in words, or None if nothing speaks against it.

    Raises:
        ValueError: If an opcode is unknown, or a length goes beyond the end of the file. Damaged pickles can also raise
            other exceptions.
    """
    stack: list[int] = []  # the number of objects in each object on the unpickler's stack, what it holds included
    marks: list[int] = []
    kept: dict[int, int] = {}
    limit = _TIMES_FILE * len(raw)
    argument: Any
    for opcode, argument, position in pickletools.genops(io.BytesIO(raw)):
        assert position is not None
        name = opcode.name
        if name in _FORBIDDEN:
            return _FORBIDDEN[name]
        if name == "FRAME" and argument > len(raw) - position:
            raise ValueError(f"a frame of {argument} bytes in a file of {len(raw)}")
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            number = len(kept) if name == "MEMOIZE" else argument
            if not 0 <= number <= position:  # each earlier one took at least a byte
                return f"memory for {number} objects, in a file of {len(raw)} bytes"
            kept[number] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(kept[argument])
        else:
            takes = len(opcode.stack_before)
            if pickletools.markobject in opcode.stack_before:
                below = opcode.stack_before.index(pickletools.markobject)  # what is taken from under the mark
                first = marks.pop() - below
            else:
                first = len(stack) - takes
            if first < 0:
                raise ValueError(f"{name} at byte {position} needs more than there is")
            unfolded = 1 + sum(stack[first:])
            del stack[first:]
            if unfolded > limit:
                return f"an object that unfolds to {unfolded} objects, in a file of {len(raw)} bytes"
            if opcode.stack_after:
                stack.append(unfolded)
    return None
