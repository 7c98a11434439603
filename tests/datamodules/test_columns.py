from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhd_pl.datamodules.columns import DECIMAL, Identifiers, Times, finite

instants = st.lists(st.integers(-40, 40).map(lambda quarters: Decimal(quarters) / 4), max_size=8)


@given(st.lists(st.tuples(st.sampled_from([pa.int64(), DECIMAL]), instants), max_size=4), instants)
def test_times_and_cuts_compare_as_the_numbers_that_they_stand_for(
    blocks: list[tuple[pa.DataType, list[Decimal]]], cuts: list[Decimal]
) -> None:
    times, known = Times(100), []
    for kind, values in blocks:
        block = [value.to_integral_value() if kind == pa.int64() else value for value in values]
        times.add(pa.array(block, DECIMAL).cast(kind))
        known += block
    numbers, found = times.numbers(cuts)
    assert (numbers[:, None] >= numbers).tolist() == [[one >= other for other in known] for one in known]
    for cut, number in zip(cuts, found, strict=True):
        assert (numbers >= number).tolist() == [time >= cut for time in known]


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), max_size=5))
def test_numbers_are_identifiers(blocks: list[list[int]]) -> None:
    ids = Identifiers(sum(map(len, blocks)), pa.int64())
    for block in blocks:
        ids.add(pa.array(block, pa.int64()).dictionary_encode())
    codes, names = ids.sorted(lambda row, wrong: pytest.fail(f"{row} {wrong}"))
    assert names == sorted({str(number) for block in blocks for number in block})
    assert [names[code] for code in codes] == [str(number) for block in blocks for number in block]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_a_shorter_float_is_the_decimal_number_that_was_meant(kind: pa.DataType) -> None:
    """As float32, 4.2 is a little less than 4.2: a threshold of 4.2 would not be reached."""
    meant = [4.2, 0.1, 3.6, -2.7, 5.0, 0.0, 4.2]
    assert finite(pa.array(np.array(meant, kind.to_pandas_dtype()))).to_pylist() == meant
    assert finite(pa.array([], kind)).to_pylist() == []
    with pytest.raises(pa.ArrowInvalid, match="not finite"):
        finite(pa.array(np.array([1, np.nan], kind.to_pandas_dtype())))
