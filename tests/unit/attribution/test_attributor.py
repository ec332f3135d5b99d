"""What follows from facts, without any node."""

from __future__ import annotations

from dataclasses import replace

from kubetrace.attribution.attributor import Attributor, Identity
from kubetrace.attribution.facts import (
    KEPT_NS,
    CgroupGone,
    CgroupSeen,
    ContainerSeen,
    Fact,
    Kind,
    OverlayGone,
    OverlaySeen,
    OverlayTold,
    PodSeen,
    Source,
)

UID = "7cf5a5da-f0f8-45a3-a0e2-dabe5b08f504"
OTHER_UID = "03d0419e-e455-4f65-9f38-58202d218318"
CART = "a" * 64
OTHER = "b" * 64
PATH = f"/kubepods/burstable/pod{UID}/{CART}"
OTHER_PATH = f"/kubepods/besteffort/pod{OTHER_UID}/{OTHER}"


def container(
    container_id: str = CART,
    *,
    pod: str | None = "cart",
    uid: str | None = UID,
    source: Source = "config.json",
    image: str | None = "app:1",
    kind: Kind = "container",
    name: str | None = "main",
) -> ContainerSeen:
    return ContainerSeen(container_id, kind, "shop" if pod else None, pod, name, uid, image, None, source, 1)


def overlay(device: int, container_id: str | None, time_ns: int, since_ns: int = 0) -> OverlaySeen:
    return OverlaySeen(device, container_id, f"/run/{container_id}/rootfs", None, None, (), time_ns, since_ns)


def knowing(*facts: Fact) -> Attributor:
    attributor = Attributor()
    for fact in facts:
        attributor.learn(fact)
    return attributor


def ask(
    attributor: Attributor,
    cgroup_id: int,
    *,
    memory: int = 0,
    hierarchy: int = 0,
    device: int | None = None,
    at: int = 10,
) -> Identity:
    return attributor.identify(
        cgroup_id=cgroup_id, memory_cgroup_id=memory, memory_hierarchy=hierarchy, device=device, time_ns=at
    )


def test_nothing_known_is_unknown() -> None:
    assert ask(Attributor(), 8123) == Identity(kind="unknown", attributed_by="none")


def test_answer_improves_with_each_fact() -> None:
    attributor = Attributor()
    assert ask(attributor, 8).kind == "unknown"
    attributor.learn(CgroupSeen(0, 8, PATH, 1))
    first = ask(attributor, 8)
    assert (first.kind, first.pod, first.pod_uid, first.container_id) == ("container", None, UID, CART)
    assert (first.qos_class, first.names_from) == ("Burstable", None)
    attributor.learn(PodSeen(UID, None, "cart-host", "kubelet", 2))
    assert (ask(attributor, 8).pod, ask(attributor, 8).names_from) == ("cart-host", "kubelet")
    attributor.learn(PodSeen(UID, "shop", "cart", "log directories", 2))
    assert (ask(attributor, 8).pod, ask(attributor, 8).names_from) == ("cart", "log directories")
    attributor.learn(container(source="log links", image=None))
    assert (ask(attributor, 8).container, ask(attributor, 8).image) == ("main", None)
    attributor.learn(container(source="containerd metadata"))
    assert (ask(attributor, 8).image, ask(attributor, 8).names_from) == ("app:1", "containerd metadata")


def test_worse_source_fills_gaps_but_does_not_rename() -> None:
    attributor = knowing(CgroupSeen(0, 8, PATH, 1), container(image=None))
    ask(attributor, 8)
    attributor.learn(container(pod="forged", source="log links", image="late:2"))
    assert (ask(attributor, 8).pod, ask(attributor, 8).image) == ("cart", "late:2")
    attributor.learn(PodSeen(UID, "evil", "forged", "kubelet", 2))
    assert ask(attributor, 8).namespace == "shop"


def test_same_answer_object_until_a_fact_matters() -> None:
    attributor = knowing(CgroupSeen(0, 8, PATH, 1), container())
    first = ask(attributor, 8)
    attributor.learn(CgroupSeen(0, 9, OTHER_PATH, 1))
    attributor.learn(container(OTHER, pod="other", uid=OTHER_UID))
    attributor.learn(container())
    assert ask(attributor, 8) is first


def test_facts_in_any_order_give_the_same() -> None:
    facts: list[Fact] = [
        CgroupSeen(0, 8, PATH, 1),
        container(source="log links", image=None),
        container(),
        PodSeen(UID, "shop", "cart", "kubelet", 3),
    ]
    assert ask(knowing(*facts), 8) == ask(knowing(*reversed(facts)), 8)


def test_removed_cgroup_keeps_its_name() -> None:
    attributor = knowing(CgroupSeen(0, 8, PATH, 1), container(), CgroupGone(0, 8, 5))
    assert ask(attributor, 8).pod == "cart"


def test_cgroup_below_a_containers_belongs_to_it() -> None:
    attributor = knowing(CgroupSeen(0, 8, PATH, 1), CgroupSeen(0, 9, PATH + "/init.scope/x", 1), container())
    nested = ask(attributor, 9)
    assert (nested.pod, nested.container_id, nested.cgroup_path) == ("cart", CART, PATH + "/init.scope/x")


def test_container_inside_a_container_belongs_to_the_outer_one() -> None:
    attributor = knowing(CgroupSeen(0, 9, f"{PATH}/docker/{OTHER}", 1), container())
    assert ask(attributor, 9).container_id == CART


def test_container_cannot_pass_for_another_by_naming_its_cgroups() -> None:
    attributor = knowing(
        container(), container(OTHER, pod="victim", uid=OTHER_UID), CgroupSeen(0, 9, PATH + OTHER_PATH, 1)
    )
    assert (ask(attributor, 9).pod, ask(attributor, 9).qos_class) == ("cart", "Burstable")


def test_node_inside_a_container_of_another_runtime_is_seen_through() -> None:
    # kind: the node is itself a docker container that no file of this node names.
    kind = f"/docker/{'d' * 64}/kubelet{PATH}"
    assert ask(knowing(CgroupSeen(0, 9, kind, 1)), 9).container_id == CART
    assert ask(knowing(CgroupSeen(0, 9, kind, 1), container()), 9).pod == "cart"


def test_memory_controller_names_where_the_v2_cgroup_is_the_root() -> None:
    attributor = knowing(CgroupSeen(3, 43, PATH, 1), container())
    found = ask(attributor, 1, memory=43, hierarchy=3)
    assert (found.pod, found.attributed_by) == ("cart", "memory cgroup")
    assert ask(attributor, 1, memory=43, hierarchy=4).kind == "unknown"


def test_v2_threaded_or_unseen_cgroup_is_named_by_its_memory_domain() -> None:
    attributor = knowing(CgroupSeen(0, 94, PATH, 1), container())
    assert ask(attributor, 157, memory=94, hierarchy=0).pod == "cart"


def test_container_by_memory_goes_before_a_pod_by_v2() -> None:
    attributor = knowing(CgroupSeen(0, 7, f"/kubepods/pod{OTHER_UID}", 1), CgroupSeen(3, 43, PATH, 1), container())
    assert ask(attributor, 7, memory=43, hierarchy=3).container_id == CART
    pod = ask(attributor, 7)
    assert (pod.kind, pod.pod_uid, pod.container_id, pod.qos_class) == ("pod", OTHER_UID, None, "Guaranteed")


def test_host_process_keeps_its_cgroup_path() -> None:
    attributor = knowing(CgroupSeen(0, 40, "/system.slice/sshd.service", 1), CgroupSeen(0, 1, "/", 1))
    assert ask(attributor, 40) == Identity(kind="host", cgroup_path="/system.slice/sshd.service", attributed_by="host")
    assert ask(attributor, 1).cgroup_path == "/"


def test_pure_v1_host_process_has_the_memory_path() -> None:
    attributor = knowing(CgroupSeen(3, 19, "/system.slice", 1), CgroupSeen(0, 1, "/", 1))
    assert ask(attributor, 1, memory=19, hierarchy=3).cgroup_path == "/system.slice"


def test_unseen_memory_cgroup_of_v1_is_unknown_not_host() -> None:
    attributor = knowing(CgroupSeen(0, 1, "/", 1), CgroupSeen(0, 40, "/system.slice/containerd.service", 1))
    assert ask(attributor, 1, memory=99, hierarchy=3).kind == "unknown"
    assert ask(attributor, 40, memory=99, hierarchy=3).kind == "unknown"


def test_host_process_writing_into_a_containers_root_is_shown_as_such() -> None:
    attributor = knowing(
        CgroupSeen(0, 8, PATH, 1), container(), CgroupSeen(0, 40, "/system.slice/x.service", 1), overlay(149, CART, 5)
    )
    found = ask(attributor, 40, device=149)
    assert (found.pod, found.container, found.host, found.attributed_by) == ("cart", "main", True, "overlay")
    assert (found.cgroup_path, found.kind, found.qos_class) == ("/system.slice/x.service", "container", "Burstable")
    assert ask(attributor, 40, device=150).kind == "host"
    assert ask(attributor, 40).kind == "host"


def test_unknown_cgroup_writing_into_a_containers_root_is_not_called_host() -> None:
    found = ask(knowing(container(), overlay(149, CART, 5)), 777, device=149)
    assert (found.pod, found.host, found.attributed_by, found.cgroup_path) == ("cart", False, "overlay", None)


def test_cgroup_goes_before_the_overlay() -> None:
    attributor = knowing(CgroupSeen(0, 8, PATH, 1), container(), overlay(149, OTHER, 5))
    assert ask(attributor, 8, device=149).container_id == CART


def test_reused_device_number_is_looked_up_by_time() -> None:
    attributor = knowing(
        CgroupSeen(0, 40, "/x", 1),
        overlay(149, CART, 5),
        OverlayGone(149, 100),
        overlay(149, OTHER, 100, since_ns=90),
        OverlayGone(149, 200),
        overlay(149, None, 300, since_ns=200),
    )

    def at(time_ns: int) -> str | None:
        return ask(attributor, 40, device=149, at=time_ns).container_id

    assert [at(0), at(50), at(89)] == [CART, CART, CART]
    assert at(95) is None
    assert [at(100), at(199)] == [OTHER, OTHER]
    assert [at(250), at(300)] == [None, None]


def test_overlay_answer_improves_too() -> None:
    attributor = knowing(CgroupSeen(0, 40, "/x", 1), overlay(149, CART, 5))
    assert ask(attributor, 40, device=149).pod is None
    attributor.learn(container())
    assert ask(attributor, 40, device=149).pod == "cart"


def test_overlay_whose_container_becomes_known_later_is_the_same_mount() -> None:
    attributor = knowing(CgroupSeen(0, 40, "/x", 1), container(), overlay(149, None, 50), overlay(149, CART, 60))
    assert ask(attributor, 40, device=149, at=55).pod == "cart"


def test_sandbox_is_a_kind_of_its_own() -> None:
    attributor = knowing(CgroupSeen(0, 8, PATH, 1), container(kind="sandbox", name=None, image=None))
    found = ask(attributor, 8)
    assert (found.kind, found.pod, found.container) == ("sandbox", "cart", None)


def test_pod_cgroup_is_named_by_its_containers() -> None:
    attributor = knowing(CgroupSeen(0, 7, f"/kubepods/burstable/pod{UID}", 1))
    assert ask(attributor, 7).pod is None
    attributor.learn(container())
    assert (ask(attributor, 7).kind, ask(attributor, 7).pod, ask(attributor, 7).names_from) == (
        "pod",
        "cart",
        "config.json",
    )


def test_what_was_removed_is_known_for_a_while_and_then_forgotten() -> None:
    attributor = knowing(
        CgroupSeen(0, 7, f"/kubepods/burstable/pod{UID}", 1),
        CgroupSeen(0, 8, PATH, 1),
        CgroupSeen(5, 8, PATH, 1),
        container(),
        overlay(70, CART, 1),
    )
    assert ask(attributor, 8).pod == "cart"
    for fact in (CgroupGone(0, 8, 10), CgroupGone(5, 8, 11), OverlayGone(70, 11), CgroupGone(0, 7, 12)):
        attributor.learn(fact)
    assert ask(attributor, 8).pod == "cart"
    # the time passes with what comes and goes elsewhere
    attributor.learn(CgroupGone(0, 99, 12 + KEPT_NS))
    assert attributor.pod(UID) is not None and attributor.container(CART) is None
    attributor.learn(CgroupGone(0, 100, 13 + KEPT_NS))
    assert ask(attributor, 8) == Identity(kind="unknown")
    assert attributor.pod(UID) is None
    assert not (attributor._paths or attributor._containers or attributor._container_paths or attributor._pods)
    assert not attributor._holders
    attributor.learn(CgroupGone(0, 101, 14 + 2 * KEPT_NS))
    assert not attributor._overlays
    assert {key for of in attributor._readers.values() for key in of} == {(8, 0, 0)}


def test_a_container_that_is_still_in_one_hierarchy_is_kept() -> None:
    attributor = knowing(CgroupSeen(0, 8, PATH, 1), CgroupSeen(5, 9, PATH, 1), container(), CgroupGone(0, 8, 10))
    attributor.learn(CgroupGone(0, 99, 11 + KEPT_NS))
    assert ask(attributor, 1, memory=9, hierarchy=5).pod == "cart"


def test_thousands_of_pods_leave_nothing_behind() -> None:
    attributor = Attributor()
    second = 10**9
    for number in range(3000):
        uid, name = f"00000000-0000-0000-0000-{number:012x}", f"{number:064x}"
        path = f"/kubepods/pod{uid}"
        for fact in (
            CgroupSeen(0, 2 * number, path, number * second),
            CgroupSeen(0, 2 * number + 1, f"{path}/{name}", number * second),
            container(name, uid=uid),
        ):
            attributor.learn(fact)
        assert ask(attributor, 2 * number + 1).pod == "cart"
        if number >= 5:
            attributor.learn(CgroupGone(0, 2 * number - 9, number * second))
            attributor.learn(CgroupGone(0, 2 * number - 10, number * second))
    known = 5 + KEPT_NS // second
    for held in (attributor._containers, attributor._pods, attributor._answers):
        assert known <= len(held) <= known + 2
    assert len(attributor._paths) <= 2 * known + 4 and len(attributor._readers) <= 4 * known + 8


def test_owners_are_those_that_events_can_still_be_of() -> None:
    attributor = knowing(
        CgroupSeen(0, 7, f"/kubepods/burstable/pod{UID}", 1),
        CgroupSeen(0, 8, PATH, 1),
        CgroupSeen(0, 9, "/system.slice/x.service", 1),
        container(),
        # in a machine of its own: a root, and no cgroup of its name
        container(OTHER, pod="vm", uid=OTHER_UID),
        overlay(70, OTHER, 1),
    )
    owners = attributor.owners()
    assert owners.pods == {("shop", "cart"), ("shop", "vm")}
    assert {UID, CART, OTHER_UID} <= owners.ids
    assert owners.paths == {f"/kubepods/burstable/pod{UID}", PATH, "/system.slice/x.service"}
    for fact in (CgroupGone(0, 8, 10), CgroupGone(0, 7, 10), CgroupGone(0, 9, 10), OverlayGone(70, 10)):
        attributor.learn(fact)
    assert attributor.owners() == owners and attributor.forgotten == 0
    attributor.learn(CgroupGone(0, 99, 11 + 2 * KEPT_NS))
    assert attributor.forgotten == 3 and not attributor._containers
    assert not (attributor.owners().pods or attributor.owners().ids or attributor.owners().paths)


def test_a_pod_that_its_runtime_knows_by_another_uid_is_forgotten_with_its_container() -> None:
    attributor = knowing(CgroupSeen(0, 8, PATH, 1), container(uid=OTHER_UID), CgroupGone(0, 8, 10))
    assert attributor.pod(OTHER_UID) is not None
    attributor.learn(CgroupGone(0, 99, 11 + KEPT_NS))
    assert attributor.pod(OTHER_UID) is None


def test_layers_of_overlays_that_are_gone_are_forgotten() -> None:
    attributor = Attributor()
    for number in range(300):
        now = number * 10**9
        attributor.learn(overlay(number, f"{number:064x}", now))
        assert attributor.layer(number, 1, now) is not None
        attributor.learn(OverlayGone(number, now + 1))
        attributor.learn(CgroupGone(0, number, now + 2))
    kept_s = KEPT_NS // 10**9
    assert kept_s <= len(attributor._layer_answers) <= kept_s * 11 // 10 + 2


def test_the_root_does_not_remember_every_cgroup_of_v1() -> None:
    attributor = knowing(CgroupSeen(0, 1, "/", 0))
    for number in range(2000):
        now = number * 10**9
        attributor.learn(CgroupSeen(5, 100 + number, f"/kubepods/pod{UID}/{number:064x}", now))
        # pure v1, or hybrid: the v2 id is the root's
        assert ask(attributor, 1, memory=100 + number, hierarchy=5).container_id == f"{number:064x}"
        attributor.learn(CgroupGone(5, 100 + number, now + 1))
    kept_s = KEPT_NS // 10**9
    assert kept_s <= len(attributor._readers["cgroup", 0, 1]) <= kept_s * 11 // 10 + 2


def test_the_kernels_word_goes_before_what_the_mount_table_shows() -> None:
    """Two containers that exit at once: the table showed the second only, which had taken the first one's number."""

    def seen(container_id: str, time_ns: int, since_ns: int) -> OverlaySeen:
        upper = f"/snapshots/{container_id[:1]}/fs"
        return OverlaySeen(149, container_id, f"/run/{container_id}/rootfs", upper, None, ("/l",), time_ns, since_ns)

    def at(attributor: Attributor, time_ns: int, *, copied_up: bool = True) -> str | None:
        return attributor.identify(
            cgroup_id=40,
            memory_cgroup_id=0,
            memory_hierarchy=0,
            device=149,
            time_ns=time_ns,
            copied_up=copied_up,
        ).container_id

    told = (OverlayTold(149, "/snapshots/a/fs", 100), OverlayTold(149, "/snapshots/b/fs", 200))
    attributor = knowing(CgroupSeen(0, 40, "/system.slice/x", 1), *told, seen(OTHER, 300, 50))
    # the first was never seen: it is not known, and not the second
    assert (at(attributor, 150), at(attributor, 250)) == (None, OTHER)
    assert (attributor.layer(149, 1, 150), attributor.layer(149, 1, 250) is not None) == (None, True)
    # what the kernel told is of copy-ups alone: for others the table says when which was mounted
    assert at(attributor, 150, copied_up=False) == OTHER
    # seen later under its old number, or another one: it is the same overlay
    attributor.learn(replace(seen(CART, 350, 300), device=150))
    assert (at(attributor, 150), at(attributor, 250)) == (CART, OTHER)


def test_an_overlay_that_the_kernel_told_is_forgotten_with_its_container() -> None:
    attributor = Attributor()
    for number in range(1, 400):
        now = number * KEPT_NS // 40
        upper = f"/snapshots/{number}/fs"
        attributor.learn(OverlaySeen(number, f"{number:064x}", f"/r/{number}", upper, None, (), now, now))
        attributor.learn(OverlayTold(number, upper, now))
        attributor.learn(CgroupSeen(0, number, f"/kubepods/{number:064x}", now))
        attributor.learn(OverlayGone(number, now + 1))
        attributor.learn(CgroupGone(0, number, now + 2))
    assert len(attributor._told) < 200 and len(attributor._uppers) < 200
