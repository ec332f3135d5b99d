"""Records of counters are put together from the kernel's columns; tests/native reads real maps."""

from __future__ import annotations

import pytest

from kubetrace.engines.counters import interleaved


@pytest.mark.parametrize(("key_size", "value_size"), [(48, 56), (4, 12), (8, 4), (3, 5)])
def test_records_are_a_stamp_a_key_and_a_value(key_size: int, value_size: int) -> None:
    keys = [bytes([number + 1]) * key_size for number in range(23)]
    values = [bytes(range(number, number + value_size)) for number in range(23)]
    stamp = bytes(range(200, 216))
    found = interleaved(stamp, (b"".join(keys), key_size), (b"".join(values), value_size))
    assert found == b"".join(stamp + key + value for key, value in zip(keys, values, strict=True))
