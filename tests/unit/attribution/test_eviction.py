"""What a kubelet does at which number, by settings written by hand; expected values by its documentation and source."""

from __future__ import annotations

import pytest

from kubetrace.attribution.eviction import IMAGE_GC, Threshold, growth, quantity, thresholds, time_left_s

FILE = "/var/lib/kubelet/config.yaml"
GIB = 1 << 30


def known(**values: object) -> dict[tuple[str, str], Threshold]:
    found = thresholds({name: (value, FILE) for name, value in values.items()}, None)
    assert not found.unknown
    return {(one.signal, one.action): one for one in found.known}


def test_a_kubelet_that_is_told_nothing_has_the_defaults() -> None:
    found = thresholds({}, None)
    assert not found.unknown
    assert {(one.signal, one.action, one.percent, one.source) for one in found.known} == {
        ("nodefs.available", "evicts", 10.0, "default"),
        ("nodefs.inodesFree", "evicts", 5.0, "default"),
        ("imagefs.available", "evicts", 15.0, "default"),
        ("imagefs.inodesFree", "evicts", 5.0, "default since 1.30"),
        (IMAGE_GC, "image GC", 85.0, "default"),
    }


def test_one_signal_that_is_set_switches_the_others_off() -> None:
    found = known(evictionHard={"nodefs.available": "5%", "memory.available": "100Mi"})
    assert set(found) == {("nodefs.available", "evicts"), (IMAGE_GC, "image GC")}
    merged = known(evictionHard={"nodefs.available": "5%"}, mergeDefaultEvictionSettings=True)
    assert merged["nodefs.available", "evicts"].percent == 5.0
    assert merged["imagefs.available", "evicts"].percent == 15.0


def test_a_flag_is_read_as_a_list_and_0_and_100_percent_are_off() -> None:
    found = known(evictionHard="nodefs.available<1Gi,imagefs.available<0%,nodefs.inodesFree<100%")
    assert set(found) == {("nodefs.available", "evicts"), (IMAGE_GC, "image GC")}
    assert found["nodefs.available", "evicts"].least(100 * GIB) == GIB


def test_a_soft_threshold_has_a_grace_period() -> None:
    found = known(evictionSoft={"nodefs.available": "15%"}, evictionSoftGracePeriod={"nodefs.available": "1m30s"})
    assert found["nodefs.available", "evicts after"].grace_s == 90.0
    without = thresholds({"evictionSoft": ({"nodefs.available": "15%"}, FILE)}, None)
    assert "nodefs.available (soft)" in without.unknown


@pytest.mark.parametrize("value", ["many", ["10%"], 5])
def test_what_is_not_understood_is_not_the_default(value: object) -> None:
    found = thresholds({"evictionHard": (value, FILE)}, None)
    assert all("not understood" in found.unknown[f"{fs}.available"] for fs in ("nodefs", "imagefs"))
    assert [one.signal for one in found.known] == [IMAGE_GC]


def test_a_quantity_that_is_none_is_named() -> None:
    found = thresholds({"evictionHard": ({"nodefs.available": "ten"}, FILE)}, None)
    assert "ten" in found.unknown["nodefs.available"]


def test_without_a_kubelet_and_with_a_file_that_cannot_be_read_nothing_is_known() -> None:
    assert set(thresholds(None, None).unknown) == {
        *(f"{fs}.{what}" for fs in ("nodefs", "imagefs") for what in ("available", "inodesFree")),
        IMAGE_GC,
    }
    unread = thresholds({}, "the file cannot be read")
    assert not unread.known and set(unread.unknown.values()) == {"the file cannot be read"}
    # a flag says what the file does not matter for
    flagged = thresholds({"imageGCHighThresholdPercent": ("70", "--image-gc-high-threshold")}, "no file")
    assert [(one.signal, one.percent) for one in flagged.known] == [(IMAGE_GC, 70.0)]


def test_images_are_collected_where_the_kubelets_rounded_use_reaches_the_threshold() -> None:
    # image_gc_manager.go: usagePercent := 100 - int(available*100/capacity); collects at >= 85
    gc = Threshold(IMAGE_GC, "image GC", 85.0, None, "default")
    for capacity in (1000, 1009, 601_563_136):
        least = gc.least(capacity)
        for available in (least - 1, least, least + 1):
            collects = 100 - int(available * 100 / capacity) >= 85
            assert collects == (available < least), (capacity, available)


def test_image_collection_can_be_off() -> None:
    assert not [one for one in known(imageGCHighThresholdPercent=100).values() if one.signal == IMAGE_GC]
    assert IMAGE_GC in thresholds({"imageGCHighThresholdPercent": ("all", FILE)}, None).unknown


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(
            ("1Gi", GIB),
            ("500M", 500_000_000),
            ("1.5Gi", 3 * GIB // 2),
            ("2048", 2048),
            ("1e9", 10**9),
            ("100k", 10**5),
        ),
        *(("1500m", 2), ("0.5", 1), ("+3", 3), ("", None), ("1 Gi", None), ("Gi", None), ("-5", None), ("1KiB", None)),
    ],
)
def test_quantities_of_kubernetes(text: str, number: int | None) -> None:
    assert quantity(text) == number


def test_growth_is_the_slope_of_the_best_line() -> None:
    # by hand: times 0, 1, 2, 3 s; values 10, 12, 11, 17 -> slope (sum of (t-1.5)(v-12.5)) / 5 = 2
    assert growth([(0, 10), (10**9, 12), (2 * 10**9, 11), (3 * 10**9, 17)]) == pytest.approx(2.0)
    assert growth([(5, 10)]) is None and growth([]) is None and growth([(5, 1), (5, 9)]) is None


def test_time_left() -> None:
    assert time_left_s(1000, 400, 10.0) == 60.0
    assert time_left_s(399, 400, None) == 0.0
    assert time_left_s(1000, 400, 0.0) is None and time_left_s(1000, 400, -5.0) is None
