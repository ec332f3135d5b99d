"""Keys as a pure function of state and key: moving, opening, filtering, sorting, choosing, prompts, the mouse."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubetrace.commands.options import _PIPE_ROWS
from kubetrace.session.table_view import PIPE_ROWS
from kubetrace.views.columns import Column
from kubetrace.views.filter import Filter
from kubetrace.views.keymap import BINDINGS, actions, help_lines, legend, reference, works
from kubetrace.views.navigation import _ACTIONS, EVENTS, Level, Shape, State, Wish, clamp, descending, press

ROOT = Path(__file__).parents[3]
COLUMNS = (
    Column("pod", "POD", "name"),
    Column("file", "FILE", "path"),
    Column("copies", "COPIES", "count"),
    Column("size", "SIZE", "bytes", wide=True),
)
SHAPE = Shape(
    room=10,
    total=100,
    columns=COLUMNS,
    shown=("pod", "file", "copies"),
    sorts=("copies", "pod"),
    groupings=("pod", "container"),
    finer="container",
    selected=(("pod", "web-0"),),
    called="pod web-0",
    about="QOS Burstable",
    order_of=lambda by: f"{by}-order",
    order_fits=lambda by, order: order.lstrip("+-") == "copies",
    traits=("live", "several"),
    head_line=2,
    heads=[(0, 6, "pod"), (8, 20, "file"), (22, 28, "copies")],
    file="kubetrace.txt",
)
REPLAY = replace(SHAPE, traits=("replay",))
STATE = State((Level("pod", "copies"),))


def after(*keys: str, state: State = STATE, shape: Shape = SHAPE) -> State:
    for key in keys:
        state = press(state, key, shape)
    return state


@pytest.mark.parametrize(
    ("keys", "cursor", "top"),
    [
        (["down"], 1, 0),
        (["j", "j", "k"], 1, 0),
        (["up"], 0, 0),
        (["down"] * 10, 10, 1),
        (["pagedown"], 9, 9),
        (["pagedown", "pagedown", "pageup"], 9, 9),
        (["end"], 99, 90),
        (["end", "pagedown"], 99, 90),
        (["end", "home"], 0, 0),
        (["end", "pageup"], 90, 81),
        (["wheeldown"], 3, 0),
        (["wheeldown", "wheelup"], 0, 0),
        (["click 3 5"], 2, 0),
        (["click 3 40"], 0, 0),
    ],
)
def test_keys_move_the_selection_and_keep_it_in_sight(keys: list[str], cursor: int, top: int) -> None:
    level = after(*keys).level
    assert (level.cursor, level.top) == (cursor, top)
    assert (level.key is None) is (cursor == 0)


def test_a_table_that_became_shorter_keeps_the_selection_on_a_row() -> None:
    state = clamp(after("end"), replace(SHAPE, total=3))
    assert (state.level.cursor, state.level.top) == (2, 0)
    state = clamp(state, replace(SHAPE, total=0))
    assert (state.level.cursor, state.level.top) == (0, 0)
    assert after("down", "enter", "pagedown", shape=replace(SHAPE, total=0, selected=())) == STATE


def test_enter_goes_down_and_escape_comes_back_to_where_one_was() -> None:
    down = after("down", "down", "enter")
    assert down.level == Level("container", "container-order", (("pod", "web-0"),), "pod web-0", "QOS Burstable")
    deeper = press(down, "enter", replace(SHAPE, finer=EVENTS, selected=(("pod", "web-0"), ("container", "app"))))
    assert deeper.level.by == EVENTS
    assert deeper.level.where == (("pod", "web-0"), ("container", "app"))
    back = after("escape", "backspace", state=deeper)
    assert len(back.levels) == 1 and back.level.cursor == 2
    assert press(back, "escape", SHAPE) == back


def test_events_that_are_not_told_are_said_not_to_be() -> None:
    shape = replace(SHAPE, has_events=False, no_events="no single writes")
    for key, of in (("e", shape), ("enter", replace(shape, finer=EVENTS))):
        state = press(STATE, key, of)
        assert len(state.levels) == 1 and state.message == "no single writes"
    assert press(STATE, "e", SHAPE).level.by == EVENTS
    assert press(press(STATE, "e", SHAPE), "down", SHAPE).message == ""


def test_a_filter_is_applied_as_it_is_typed() -> None:
    typing = after("down", "/", "s", "h", "o")
    assert typing.mode == "filter" and typing.level.filter == "sho" and typing.level.cursor == 0
    assert press(typing, "backspace", SHAPE).level.filter == "sh"
    assert press(typing, "ctrl-u", SHAPE).level.filter == ""
    # letters are text here, not keys
    assert after("q", "c", state=typing).level.filter == "shoqc"
    kept = press(typing, "enter", SHAPE)
    assert (kept.mode, kept.level.filter, kept.searched) == ("table", "sho", "sho")
    assert press(press(typing, "enter", SHAPE), "escape", SHAPE).level.filter == ""
    again = after("/", "x", "escape", state=kept)
    assert again.level.filter == "sho" and again.mode == "table"


def test_n_goes_round_the_matches_and_takes_up_the_last_search() -> None:
    few = replace(SHAPE, total=3)
    state = after("/", "a", "enter", shape=few)
    assert [after(*["n"] * times, state=state, shape=few).level.cursor for times in range(4)] == [0, 1, 2, 0]
    assert press(state, "N", few).level.cursor == 2
    assert after("escape", "n", state=state, shape=few).level.filter == "a"
    assert "nothing was searched" in press(STATE, "n", few).message


def test_the_sort_column_is_chosen_on_its_head() -> None:
    assert press(STATE, "<", SHAPE).level.order == "file"
    assert press(press(STATE, "<", SHAPE), ">", SHAPE).level.order == "copies"
    assert press(STATE, ">", SHAPE).level.order == "copies"
    assert press(STATE, "s", SHAPE).level.order == "pod"
    assert press(STATE, "r", SHAPE).level.order == "+copies"
    assert after("r", "r").level.order == "-copies"
    assert after("<", "r").level.order == "-file"
    assert press(STATE, "click 9 2", SHAPE).level.order == "file"
    assert press(STATE, "click 22 2", SHAPE).level.order == "+copies"
    assert press(STATE, "click 21 2", SHAPE) == STATE
    assert press(State((Level("pod", "gone"),)), "<", SHAPE).level.order == "copies"


@pytest.mark.parametrize(
    ("order", "down"), [("copies", True), ("+copies", False), ("pod", False), ("-pod", True), ("gone", True)]
)
def test_the_mark_of_the_order_is_that_of_the_rows(order: str, down: bool) -> None:
    assert descending(order, COLUMNS) is down


def test_g_goes_through_the_groupings_and_leaves_no_order_that_is_not_there() -> None:
    assert press(STATE, "g", SHAPE).level.by == "container"
    assert press(STATE, "g", SHAPE).level.order == "copies"
    assert after("<", "g").level.order == "container-order"
    assert after("g", "g").level.by == "pod"


def test_columns_are_chosen_in_a_list() -> None:
    state = after("c", "end", " ")
    assert state.mode == "columns" and state.toggled == (("size", True),)
    assert after("home", "enter", state=state).toggled == (("size", True), ("pod", False))
    assert after(" ", state=state).toggled == (("size", False),)
    assert after("c", state=state).mode == "table"
    assert after("q", state=state).ended


def test_a_click_on_the_selected_row_opens_it() -> None:
    assert press(STATE, "click 3 3", SHAPE).level.by == "container"
    assert after("click 3 4", "click 3 4").level.by == "container"


def test_what_only_a_run_can_do_is_left_to_it_once() -> None:
    assert press(STATE, "tab", SHAPE).wish == Wish("tracer", number=1)
    assert press(STATE, "backtab", SHAPE).wish == Wish("tracer", number=-1)
    assert press(press(STATE, "tab", SHAPE), "down", SHAPE).wish is None
    written = after("w", "ctrl-u", *"a.svg", "enter")
    assert written.wish == Wish("write", "a.svg") and written.mode == "table"
    assert after("w", "enter").wish == Wish("write", "kubetrace.txt")
    assert after("w", "escape").wish is None


def test_a_replay_is_walked_through() -> None:
    for key, wish in (
        ("left", Wish("step", number=-1)),
        ("right", Wish("step", number=1)),
        ("[", Wish("minute", number=-1)),
        ("shift-right", Wish("minute", number=1)),
    ):
        assert press(STATE, key, REPLAY).wish == wish
        assert press(STATE, key, SHAPE) == STATE
    assert press(STATE, "left", REPLAY).paused and not press(STATE, "[", REPLAY).paused
    assert after(":", *"18:02", "enter", shape=REPLAY).wish == Wish("time", "18:02")
    assert press(STATE, "+", REPLAY).speed == 2 and press(STATE, "-", REPLAY).speed == 0.5
    assert after(*["+"] * 50, shape=REPLAY).speed == 1024


def test_the_interval_has_steps_and_ends() -> None:
    assert press(STATE, "+", SHAPE).interval_s == 2
    assert press(STATE, "-", SHAPE).interval_s == 0.5
    assert after(*["-"] * 9).interval_s == 0.1 and after(*["+"] * 9).interval_s == 60
    assert press(replace(STATE, interval_s=3.3), "-", SHAPE).interval_s == 2


def test_pause_wide_help_quit() -> None:
    assert press(STATE, " ", SHAPE).paused and press(STATE, "p", SHAPE).paused and not after("p", " ").paused
    assert press(STATE, "o", SHAPE).wide and not after("o", "o").wide
    shape = replace(SHAPE, lines=30)
    helped = after("?", "down", "pagedown", shape=shape)
    assert helped.mode == "help" and helped.at == 11
    assert after("pagedown", "pagedown", "pagedown", state=helped, shape=shape).at == 20
    assert press(helped, "x", shape).mode == "table"
    assert press(STATE, "q", SHAPE).ended and press(helped, "q", shape).ended


KEYS = [key for one in BINDINGS for key in one.keys if key != "click"]


@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [*KEYS, "escape", "enter", "ctrl-u", "f13", "click 0 0", "click 5 5", "click x y", "click"]
            ),
            st.characters(),
        ),
        max_size=30,
    ),
    st.integers(0, 200),
    st.integers(0, 40),
)
def test_no_keys_lead_out_of_the_table(keys: list[str], total: int, room: int) -> None:
    state = STATE
    shape = replace(SHAPE, total=total, room=room, lines=room + 3)
    for key in keys:
        state = press(state, key, shape)
        level = clamp(state, shape).level
        assert 0 <= level.cursor < max(1, total)
        assert level.top <= level.cursor < level.top + max(1, room)
        assert state.levels and state.at >= 0


# The keymap.


def test_each_action_is_declared_and_each_declared_one_is_done() -> None:
    assert {one.action for one in BINDINGS} - {"click"} == set(_ACTIONS)


@pytest.mark.parametrize("traits", [("live",), ("live", "several"), ("replay",), ("replay", "several")])
def test_no_key_does_two_things(traits: tuple[str, ...]) -> None:
    keys = [key for one in BINDINGS if works(one, traits) for key in one.keys]
    assert len(keys) == len(set(keys)) == len(actions(traits))
    assert all(" " not in key for key in keys if len(key) > 1)
    assert sum(len(key) + len(text) + 3 for key, text in legend(traits)) - 2 <= 130
    assert all(text.isascii() for pair in help_lines(traits) for text in pair)


def test_the_documents_say_what_the_keys_do() -> None:
    assert "```\n" + "\n".join(reference()) + "\n```" in (ROOT / "docs/table.md").read_text()


def test_options_say_how_many_rows_a_pipe_shows() -> None:
    assert _PIPE_ROWS == PIPE_ROWS


# Filters.


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", True),
        ("shop", True),
        ("SHOP", True),
        ("!shop", False),
        ("shop !sidecar", True),
        ("shop !web", False),
        ("shop nginx", True),
        ("shop apache", False),
        ("!", True),
        ("/etc/nginx", True),
        ("webshop", False),
    ],
)
def test_a_filter_wants_every_word_and_none_behind_an_exclamation_mark(text: str, wanted: bool) -> None:
    assert Filter(text).matches(["shop", "web-0", "/etc/nginx/nginx.conf"]) is wanted


@given(st.text(), st.text(string.ascii_lowercase + " !", max_size=8))
def test_marked_places_hold_a_word_of_the_filter(text: str, typed: str) -> None:
    wanted, end = Filter(typed), -1
    for begin, stop in wanted.spans(text):
        assert end < begin < stop <= len(text)
        end = stop
        assert any(word in text[begin:stop].lower() for word in wanted.words)


def test_places_that_touch_are_one() -> None:
    assert Filter("ab bc").spans("xabcx") == [(1, 4)]
    assert Filter("ng").spans("nginx NGINX") == [(0, 2), (6, 8)]
    assert Filter("!ng").spans("nginx") == []
