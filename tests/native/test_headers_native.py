"""Where a kernel has no BTF, its headers: what they say of its types is held against the BTF of one that has both."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kubetrace.engines.bcc import headers
from kubetrace.engines.bcc.engine import compile_text
from kubetrace.engines.bcc.translate import translate
from kubetrace.engines.kernel_types import KernelTypes, asked_for
from tests.vm import kernels, stage

SOURCES = Path(__file__).parents[2] / "bpf"
# left out by packages of headers: bpf/headers.bpf.h has them as far as they are read, so their size is another
CUT = ("io_worker", "mount", "mnt_namespace", "ovl_config", "ovl_fs", "ovl_inode")


@pytest.mark.parametrize("name", kernels.WITH_HEADERS)
def test_a_tracer_becomes_the_same_text_by_either(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = stage.cache_directory()
    kernel = kernels.find(name, cache, print)
    tree = kernels.headers(name, kernel, cache, print)
    assert tree is not None
    kernels.write_btf(kernel, ("overlay",), tmp_path)
    texts = {source.name: translate(source, SOURCES, {}, str).text for source in SOURCES.glob("*.bpf.c")}
    assert len(texts) >= 4
    wanted = set().union(*map(asked_for, texts.values()))
    monkeypatch.setenv("BCC_KERNEL_SOURCE", f"{tree}/usr/src/linux-headers-{kernel.release}")
    by_headers = headers.kernel_types(wanted, SOURCES, compile_text, None)
    by_btf = KernelTypes.of_kernel(tmp_path, wanted)

    def laid_out(types: KernelTypes, text: str) -> list[str]:
        return re.sub(
            rf"(struct (?:{'|'.join(CUT)})(?:___\w+)? \{{.*)kt_size\[\d+\]", r"\1", types.apply(text)
        ).splitlines()

    for source, text in texts.items():
        assert laid_out(by_headers, text) == laid_out(by_btf, text), source
        assert any("kt_to_" in line for line in laid_out(by_btf, text))
        assert not any(re.search(rf"(sizeof|type_size)\(struct {cut}\)", text) for cut in CUT)
