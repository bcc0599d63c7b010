"""The codec: exact decimal scaling, every type and order, and refusals instead of wrong words."""

from __future__ import annotations

import itertools
import struct
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stationkeeper.modbus.codec import CodecError, DataType, Encoding, decode, encode

INTEGERS = [kind for kind in DataType if not kind.is_float and kind is not DataType.BIT]
FLOATS = [kind for kind in DataType if kind.is_float]
ORDERS = st.sampled_from(["big", "little"])
ALL_SCALES = ["1", "0.1", "0.001", "0.25", "10", "-0.1", "3", "1E-9", "0.07"]
ALL_OFFSETS = ["0", "-40", "0.5", "273.15"]
SCALES = st.sampled_from(ALL_SCALES)
OFFSETS = st.sampled_from(ALL_OFFSETS)


def bounds(kind: DataType) -> tuple[int, int]:
    bits = kind.words * 16
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if kind.is_signed else (0, (1 << bits) - 1)


@pytest.mark.criterion("MW-21")
@pytest.mark.parametrize("kind", INTEGERS)
def test_the_ends_of_each_type_survive_with_every_order_scale_and_offset(kind: DataType) -> None:
    """Every combination, which the random ones below need not meet."""
    low, high = bounds(kind)
    orders: list[Any] = ["big", "little"]
    for words, bytes_, scale, offset in itertools.product(orders, orders, ALL_SCALES, ALL_OFFSETS):
        encoding = Encoding(kind, words, bytes_, Decimal(scale), Decimal(offset))
        for raw in (low, low + 1, 0, 1, high // 3, high - 1, high):
            value = raw * Decimal(scale) + Decimal(offset)
            assert decode(encode(value, encoding), encoding) == value


@pytest.mark.criterion("MW-21")
@given(st.data(), st.sampled_from(INTEGERS), st.tuples(ORDERS, ORDERS), SCALES, OFFSETS)
def test_integers_survive_the_round_trip(
    data: st.DataObject, kind: DataType, orders: tuple[Any, Any], scale: str, offset: str
) -> None:
    raw = data.draw(st.integers(*bounds(kind)))
    encoding = Encoding(kind, *orders, Decimal(scale), Decimal(offset))
    value = raw * Decimal(scale) + Decimal(offset)
    registers = encode(value, encoding)
    assert len(registers) == kind.words
    assert decode(registers, encoding) == value


@pytest.mark.criterion("MW-21")
@given(st.data(), st.sampled_from(FLOATS), st.tuples(ORDERS, ORDERS))
def test_floats_survive_the_round_trip(data: st.DataObject, kind: DataType, orders: tuple[Any, Any]) -> None:
    value = data.draw(st.floats(allow_nan=False, allow_infinity=False, width=kind.words * 16))
    encoding = Encoding(kind, *orders)
    assert decode(encode(value, encoding), encoding) == value


@pytest.mark.criterion("MW-21")
@given(st.data(), st.sampled_from(FLOATS), st.tuples(ORDERS, ORDERS), SCALES, OFFSETS)
def test_scaled_floats_survive_the_round_trip_to_their_precision(
    data: st.DataObject, kind: DataType, orders: tuple[Any, Any], scale: str, offset: str
) -> None:
    value = data.draw(st.floats(-1e6, 1e6))
    encoding = Encoding(kind, *orders, Decimal(scale), Decimal(offset))
    registers = encode(value, encoding)
    assert len(registers) == kind.words
    back = decode(registers, encoding)
    # The raw value keeps 24 or 53 bits; an offset adds to what its last bit is worth.
    precision = 2.0**-23 if kind is DataType.FLOAT32 else 2.0**-51
    assert back == pytest.approx(value, abs=precision * (abs(value) + 2 * abs(float(offset))) + 1e-40)


@pytest.mark.criterion("MW-21")
@given(st.data(), st.sampled_from(INTEGERS), st.tuples(ORDERS, ORDERS), SCALES, OFFSETS)
def test_any_words_survive_decoding_and_encoding(
    data: st.DataObject, kind: DataType, orders: tuple[Any, Any], scale: str, offset: str
) -> None:
    """The other way round: what was read can be written back, register for register."""
    words = data.draw(st.lists(st.integers(0, 0xFFFF), min_size=kind.words, max_size=kind.words))
    encoding = Encoding(kind, *orders, Decimal(scale), Decimal(offset))
    value = decode(words, encoding)
    assert value is not None
    assert encode(value, encoding) == words


@pytest.mark.criterion("MW-21")
@given(st.integers(0, 15), st.integers(0, 15), ORDERS, st.data())
def test_bits_and_masked_fields_survive_the_round_trip(
    first: int, last: int, bytes_: Any, data: st.DataObject
) -> None:
    low, high = sorted((first, last))
    field = Encoding(DataType.UINT16, byte_order=bytes_, mask=(2 << high) - (1 << low))
    value = data.draw(st.integers(0, (1 << high - low + 1) - 1))
    assert decode(encode(value, field), field) == value
    bit = Encoding(DataType.BIT, bit=first)
    assert [decode(encode(state, bit), bit) for state in (0, 1)] == [0, 1]


@pytest.mark.criterion("MW-21")
@given(
    st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=4), st.sampled_from(list(DataType)), SCALES, OFFSETS
)
def test_any_words_decode_or_are_refused(words: list[int], kind: DataType, scale: str, offset: str) -> None:
    if kind is DataType.BIT:
        scale, offset = "1", "0"
    encoding = Encoding(kind, scale=Decimal(scale), offset=Decimal(offset))
    if len(words) == kind.words:
        decode(words, encoding)
    else:
        with pytest.raises(CodecError, match="takes"):
            decode(words, encoding)


@pytest.mark.criterion("MW-21")
@given(st.floats() | st.integers(-(2**70), 2**70), st.sampled_from(list(DataType)), SCALES)
def test_any_number_encodes_or_is_refused(value: float, kind: DataType, scale: str) -> None:
    encoding = Encoding(kind, scale=Decimal("1" if kind is DataType.BIT else scale))
    try:
        words = encode(value, encoding, "nearest")
    except CodecError:
        return
    assert all(0 <= word <= 0xFFFF for word in words)


@pytest.mark.criterion("MW-4")
def test_a_third_of_a_tenth_is_three_and_never_two() -> None:
    tenth = Encoding(DataType.INT16, scale=Decimal("0.1"))
    assert encode(0.3, tenth) == [3]
    assert [encode(n / 10, tenth) for n in range(100)] == [[n] for n in range(100)]


def test_word_and_byte_order() -> None:
    value = 0x0102_0304
    orders: dict[tuple[Any, Any], list[int]] = {
        ("big", "big"): [0x0102, 0x0304],
        ("little", "big"): [0x0304, 0x0102],
        ("big", "little"): [0x0201, 0x0403],
        ("little", "little"): [0x0403, 0x0201],
    }
    for (words, bytes_), registers in orders.items():
        assert encode(value, Encoding(DataType.UINT32, words, bytes_)) == registers


@pytest.mark.criterion("MW-4")
@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (float("nan"), "float32", "finite"),
        (float("inf"), "int16", "finite"),
        (True, "uint16", "not a number"),
        ("1", "uint16", "not a number"),
        (1e39, "float32", "range"),
        (Decimal("1e400"), "float64", "range"),
        (-1, "uint16", "range"),
        (32768, "int16", "range"),
        (10**30, "int64", "range"),
        (0.5, "int32", "multiple"),
        (2, "bit", "0 or 1"),
    ],
)
def test_refuses_what_the_register_cannot_hold(value: Any, kind: str, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        encode(value, Encoding(DataType(kind)))


@pytest.mark.criterion("MW-4")
def test_nearest_rounds_only_when_asked() -> None:
    step = Encoding(DataType.INT16, scale=Decimal("0.1"))
    with pytest.raises(CodecError, match="multiple"):
        encode(0.34, step)
    assert encode(0.34, step, "nearest") == [3]


@pytest.mark.parametrize(
    ("kind", "sentinel", "words"),
    [
        ("int16", 0x8000, [0x8000]),
        ("int16", -32768, [0x8000]),
        ("uint16", 0xFFFF, [0xFFFF]),
        ("int32", 0x80000000, [0x8000, 0]),
        ("uint32", 0xFFFFFFFF, [0xFFFF, 0xFFFF]),
    ],
)
def test_not_implemented_is_missing_never_a_number(kind: str, sentinel: int, words: list[int]) -> None:
    encoding = Encoding(DataType(kind), scale=Decimal("0.1"), not_implemented=sentinel)
    assert decode(words, encoding) is None
    raw = decode(words, Encoding(DataType(kind)))
    assert isinstance(raw, int)
    with pytest.raises(CodecError, match="not implemented"):
        encode(raw * Decimal("0.1"), encoding)


def test_nan_and_infinity_are_missing() -> None:
    for number in (float("nan"), float("inf")):
        words = list(struct.unpack(">HH", struct.pack(">f", number)))
        assert decode(words, Encoding(DataType.FLOAT32)) is None


def test_bits_and_masks() -> None:
    assert encode(True, Encoding(DataType.BIT, bit=3)) == [8]
    assert decode([8], Encoding(DataType.BIT, bit=3)) == 1
    field = Encoding(DataType.UINT16, mask=0x0F00)
    assert encode(5, field) == [0x0500]
    assert decode([0xA5FF], field) == 5
    with pytest.raises(CodecError, match="mask"):
        encode(16, field)


@pytest.mark.parametrize(
    "arguments",
    [
        {"type": DataType.INT16, "scale": Decimal(0)},
        {"type": DataType.INT16, "scale": Decimal("nan")},
        {"type": DataType.INT16, "offset": Decimal("inf")},
        {"type": DataType.INT16, "bit": 1},
        {"type": DataType.BIT, "bit": 16},
        {"type": DataType.BIT, "bit": 1, "scale": Decimal(2)},
        {"type": DataType.INT32, "mask": 1},
    ],
)
def test_an_encoding_that_makes_no_sense_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        Encoding(**arguments)
