"""What bcc is given: the same sources as one text, laid out for a kernel. No kernel and no bcc are needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kubetrace.engines.bcc.translate import FIRST_MAP, Translated, _Preprocessor, translate
from kubetrace.engines.kernel_types import asked_for
from kubetrace.errors import LoadRefused

BPF = Path(__file__).parents[3] / "bpf"


def of(tmp_path: Path, source: str, **constants: int) -> Translated:
    path = tmp_path / "own.bpf.c"
    path.write_text(source)
    return translate(path, BPF, constants, lambda text: text)


def own(translated: Translated) -> str:
    """What became of the file itself, without the headers in front of it."""
    return translated.text.rpartition('#line 1 "own.bpf.c"')[2]


def test_a_kprobe_is_a_function_of_a_context_that_bcc_does_not_look_into(tmp_path: Path) -> None:
    found = of(
        tmp_path,
        'SEC("kprobe/ovl_do_remove")\n'
        "int BPF_KPROBE(gone__kprobe, struct dentry *dentry, bool is_dir)\n{\n\treturn 0;\n}\n",
    )
    assert found.programs == {"gone__kprobe": "kprobe/ovl_do_remove"}
    assert "int kt_body_gone__kprobe(void *ctx, struct dentry *dentry, bool is_dir)" in own(found)
    assert (
        "int gone__kprobe(void *ctx) { return kt_body_gone__kprobe(ctx, (struct dentry *)PT_REGS_PARM1(ctx), "
        "(bool)PT_REGS_PARM2(ctx)); }" in own(found)
    )


def test_fentry_is_left_out_and_lines_stay_where_they_were(tmp_path: Path) -> None:
    found = of(
        tmp_path,
        'SEC("fexit/vfs_write")\nint BPF_PROG(a__fentry, long result)\n{\n\tif (result) {\n\t}\n\treturn 0;\n}\n'
        'SEC("raw_tp/sched_process_exec")\nint b__raw_tp(void *ctx)\n{\n\treturn 0;\n}\nint last;\n',
    )
    assert found.programs == {"b__raw_tp": "raw_tp/sched_process_exec"}
    assert "a__fentry" not in own(found)
    assert own(found).split("\n").index("int last;") == 13


def test_a_macro_that_makes_programs_is_expanded(tmp_path: Path) -> None:
    found = of(
        tmp_path,
        "#define ENDS(group, function)              \\\n"
        '\tSEC("kretprobe/" #function)             \\\n'
        "\tint group##_end__kprobe(void *ctx)       \\\n"
        "\t{                                        \\\n"
        "\t\treturn 0;                              \\\n"
        "\t}\n"
        "#define BOTH(group, function) ENDS(group, function)\n"
        "BOTH(link, ovl_link)\nBOTH(sync, KT_NO_MACRO)\n",
    )
    assert found.programs == {
        "link_end__kprobe": "kretprobe/ovl_link",
        "sync_end__kprobe": "kretprobe/KT_NO_MACRO",
    }


def test_a_macro_hands_the_rest_of_its_arguments_on(tmp_path: Path) -> None:
    found = of(
        tmp_path,
        "#define ONE(name, section, call, ...) SEC(section) int BPF_KPROBE(name, ##__VA_ARGS__) { return call; }\n"
        '#define ENTRY(group, call, ...) ONE(group##__kprobe, "kprobe/" #group, call, ##__VA_ARGS__)\n'
        "#define PAIR(first, second, call, ...) \\\n"
        "\tENTRY(first, call, ##__VA_ARGS__) \\\n"
        "\tENTRY(second, call, ##__VA_ARGS__)\n"
        "PAIR(ovl_link, ovl_rename, f(old, 1), struct dentry *old, int flags)\nENTRY(ovl_open, 2)\n",
    )
    assert found.programs == {
        "ovl_link__kprobe": "kprobe/ovl_link",
        "ovl_rename__kprobe": "kprobe/ovl_rename",
        "ovl_open__kprobe": "kprobe/ovl_open",
    }
    assert "kt_body_ovl_rename__kprobe(void *ctx, struct dentry *old, int flags) { return f(old, 1); }" in own(found)
    assert "kt_body_ovl_open__kprobe(void *ctx) { return 2; }" in own(found)


def test_maps_are_numbers_constants_are_values_and_variables_are_maps(tmp_path: Path) -> None:
    found = of(
        tmp_path,
        "const volatile __u64 least = 5;\nconst volatile bool quiet = false;\n__u64 seen = 0;\n"
        'struct {\n\t__uint(type, 1);\n\t__type(key, __u64);\n} files SEC(".maps");\n'
        'SEC("raw_tp/x")\nint x__raw_tp(void *ctx)\n{\n\t__u64 key = least;\n\n\tseen++;\n'
        "\treturn bpf_map_lookup_elem(&files, &key) != 0;\n}\n",
        least=7,
    )
    assert (found.maps, found.values) == (("files",), ("seen",))
    text = own(found)
    assert "static const __u64 least = 7ULL;" in text and "static const bool quiet = false;" in text
    assert "bpf_map_lookup_elem(KT_MAP(files), &key)" in text and "KT_GLOBAL(seen)++" in text
    assert f"kt_map_number_files = {FIRST_MAP}" in text and f"kt_map_number_seen = {FIRST_MAP + 1}" in text


def test_a_name_that_is_also_a_member_stays_one(tmp_path: Path) -> None:
    found = of(
        tmp_path,
        'struct {\n\t__uint(type, 1);\n} files SEC(".maps");\n'
        "static void *f(struct task_struct *task) { return BPF_CORE_READ(task, files); }\n"
        "static void *g(struct a *files, int b) { return b & files->c; }\n"
        "static void *h(void) { int files; return k(&files); }\n",
    )
    assert "BPF_CORE_READ(task, files)" in own(found) and "b & files->c" in own(found) and "k(&files)" in own(found)


def test_a_comment_inside_a_macro_does_not_end_it(tmp_path: Path) -> None:
    found = of(
        tmp_path,
        "#define TWO(name, hook) \\\n\tSEC(hook) \\\n\tint name##_a(void *ctx) { return 0; } \\\n"
        "\t/* one \\\n\t * and two */ \\\n\tSEC(hook) \\\n\tint name##_b(void *ctx) { return 1; }\n"
        'TWO(x, "raw_tp/y")\nint last;\n',
    )
    assert found.programs == {"x_a": "raw_tp/y", "x_b": "raw_tp/y"}
    assert own(found).split("\n").index("int last;") == 9


def test_a_function_of_its_own_becomes_part_of_its_callers(tmp_path: Path) -> None:
    found = of(tmp_path, "__attribute__((noinline)) int f(int a) { return a; }\nstatic __noinline int g(void);\n")
    assert "static __always_inline int f(int a)" in own(found)
    assert "static __always_inline int g(void)" in own(found)


def test_branches_are_taken_and_comments_go(tmp_path: Path) -> None:
    found = of(
        tmp_path,
        "#if defined(KT_BCC) && !defined(NOTHING)\nint yes; /* a */\n#else\nint no;\n#endif\n"
        '#ifdef NOTHING\nint never;\n#elif 1\nint also; // "b"\n#endif\nchar *text = "/* kept */";\n',
    )
    assert own(found).split() == ["int", "yes;", "int", "also;", "char", "*text", "=", '"/*', "kept", '*/";']


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("#if defined(X)\n", "not ended"),
        ("#endif\n", "without #if"),
        ("#if __has_include(<x.h>)\n#endif\n", "more than kubetrace evaluates"),
        ('#include "nowhere.h"\n', "which is not there"),
        ('SEC("kprobe/x")\nint x(void *ctx)\n{\n', "is not closed"),
        ('SEC("uprobe/x")\nint BPF_UPROBE(x, int a)\n{\n}\n', "BPF_UPROBE"),
        ('SEC(NAME("a"))\nint x(void *ctx)\n{\n}\n', "not a name of a hook"),
    ],
)
def test_what_cannot_be_translated_says_so(tmp_path: Path, source: str, words: str) -> None:
    with pytest.raises(LoadRefused) as caught:
        of(tmp_path, source)
    assert words in str(caught.value)


def test_an_unknown_constant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadRefused, match="no constant least"):
        of(tmp_path, "int a;\n", least=1)


@pytest.mark.parametrize("tracer", ["copyup", "writes", "cgroups", "starts"])
def test_every_program_but_fentry_is_there(tracer: str) -> None:
    found = translate(BPF / f"{tracer}.bpf.c", BPF, {}, lambda text: text)
    assert found.license == "Dual BSD/GPL"
    assert {section.partition("/")[0] for section in found.programs.values()} <= {"kprobe", "kretprobe", "raw_tp"}
    assert {"cgroup_mkdir__raw_tp", "cgroup_rmdir__raw_tp"} <= found.programs.keys()
    assert "SEC(" not in found.text.partition("kt_pin_loss")[2]
    if tracer == "writes":
        assert found.programs["fsynced__kprobe"] in ("kretprobe/__x64_sys_fsync", "kretprobe/__arm64_sys_fsync")
    if tracer == "starts":
        assert found.programs["mounted__kprobe"] in ("kprobe/__x64_sys_mount", "kprobe/__arm64_sys_mount")


@pytest.mark.parametrize("tracer", ["copyup", "writes", "cgroups", "starts"])
def test_the_groups_in_a_tracers_list_are_those_with_a_backup(tracer: str) -> None:
    pre = _Preprocessor({"__TARGET_ARCH_x86"}, [BPF])
    text = pre.expand(pre.file(BPF / f"{tracer}.bpf.c"))
    lists = [macro.body for name, macro in pre.macros.items() if name.endswith("_GROUPS")]
    listed = [group for body in lists for group in re.findall(r"\bX\((\w+)\)", body)]
    assert listed and len(listed) == len(set(listed))
    backed_up = set(re.findall(r"\b(\w+)_backup__\w", text))
    assert {"cgroup_mkdir", "cgroup_rmdir", *listed} == backed_up


def test_what_is_asked_of_the_kernel_is_named_without_flavours() -> None:
    asked: set[str] = set()

    def look(text: str) -> str:
        asked.update(asked_for(text))
        return text

    translate(BPF / "copyup.bpf.c", BPF, {}, look)
    assert {"struct dentry", "struct vfsmount", "struct ovl_inode", "enum cgroup_subsys_id"} <= asked
    assert not [name for name in asked if "___" in name or "kt_" in name or "copyup" in name]
