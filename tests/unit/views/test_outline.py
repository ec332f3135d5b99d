"""An outline: every name of others is escaped, and nothing is cut."""

from __future__ import annotations

from kubetrace.views.outline import Entry, text


def test_an_outline_folds_what_does_not_fit_and_escapes_names() -> None:
    top = Entry("pod", ["shop/web-0"])
    volume = top.add("volume", "\x1b[31mred", None, "/var/lib/" + "x" * 60)
    volume.add("[bold]markup[/bold]", "4.0 KiB")
    wide = text(top, 200)
    assert wide.splitlines() == [
        "pod  shop/web-0",
        "└── volume  \\x1b[31mred  /var/lib/" + "x" * 60,
        "    └── [bold]markup[/bold]  4.0 KiB",
    ]
    narrow = text(top, 40).splitlines()
    assert all(len(line) <= 40 for line in narrow)
    assert "x" * 60 in "".join(line.strip(" │└─") for line in narrow)
    assert text(top, 40, ascii=True).isascii()
