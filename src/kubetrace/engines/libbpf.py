"""The engine for kernels with BTF: open, choose, load and attach a compiled object through libbpf (library.py)."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Collection, Iterator, Mapping
from ctypes import c_char_p, c_size_t, c_uint32
from pathlib import Path
from typing import Any

from kubetrace.engines import support
from kubetrace.engines.attached import (
    FOR_BACKUPS,
    MAP_TYPE_LRU_HASH,
    Attached,
    Map,
    Program,
    attach_order,
    lru_entries,
)
from kubetrace.engines.btf import Btf
from kubetrace.engines.library import library
from kubetrace.engines.module_functions import module_functions
from kubetrace.engines.tracefs import TracefsReturns
from kubetrace.errors import EngineError, LibraryMissing, LoadRefused

# What libbpf or the kernel answer when a function to hook is not there, or its module is not loaded.
_ABSENT = (errno.ENOENT, errno.ESRCH)


class _OpenOptions(ctypes.Structure):
    """struct bpf_object_open_opts (libbpf.h) up to btf_custom_path; libbpf takes any shorter one."""

    _fields_ = [
        ("sz", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", c_char_p),
        ("removed", c_uint32),
        ("kconfig", c_char_p),
        ("btf_custom_path", c_char_p),
    ]


class _Program(Program):
    """One of an object's; `pointer` is libbpf's struct bpf_program, valid while its object is open."""

    def __init__(self, pointer: int) -> None:
        """The names are copied out of it."""
        name: str = library().bpf_program__name(pointer).decode()
        super().__init__(name, library().bpf_program__section_name(pointer).decode())
        self.pointer = pointer


class LoadedObject(Attached):
    """A compiled object inside the kernel with its programs attached; use as a context manager, or close().

    `constants` are written into .rodata before loading (variable name -> value). `hook` is auto, fentry or kprobe.
    `optional` names the groups that a tracer can do without, each with what is then not seen; `unneeded` names programs
    that stand for doing nothing, where a group needs none for these constants. `sizes`: map -> entries.
    A group's programs are tried in the object's order (fentry before kprobe) by a real load and attach; the
    kernel's version is never asked. Backups are attached where the kernel may preempt a program.

    Raises PermissionDenied, HookMissing, LoadRefused or LibraryMissing.
    """

    def __init__(
        self,
        path: Path,
        *,
        constants: Mapping[str, int] | None = None,
        hook: str = "auto",
        optional: Mapping[str, str | None] | None = None,
        unneeded: Collection[str] = (),
        sizes: Mapping[str, int] | None = None,
        attach: bool = True,
    ) -> None:
        """Open, load and attach; `attach=False` ends behind the verifier."""
        support.check_rights()
        support.check_btf()
        if not path.exists():
            raise LibraryMissing(
                f"the compiled object {path.name} is not installed.",
                why="The wheel carries one for x86-64 and arm64; a source checkout compiles it.",
                do="python3 scripts/compile_objects.py",
                check="tracers",
            )
        super().__init__(library())
        self._path = path
        self._constants = dict(constants or {})
        self._optional = dict(optional or {})
        self._unneeded = frozenset(unneeded)
        self._sizes = dict(sizes or {})
        self._attach = attach
        self._object = 0
        self._links: list[int] = []
        self._attempts: list[str] = []
        try:
            self._choose(hook)
        except BaseException:
            self.close()
            raise
        self._library.settle()

    # -- choosing ---------------------------------------------------------------------------------------------------

    def _choose(self, hook: str) -> None:
        candidates = self._candidates(hook)
        while True:
            chosen = {
                group: programs[0].name
                for group, programs in candidates.items()
                if self._serves(programs[0], candidates)
            }
            refused, code = self._try(chosen)
            if refused is None:
                return
            group = refused.partition("__")[0]
            self._attempts += [f"{refused}: {os.strerror(code)}", *self._library.log]
            self.close()
            last = candidates[group][0]
            if len(candidates[group]) == 1 and group not in self._optional and last.backs_up is None:
                raise self._refusal(refused, code, hook)
            self._demote(candidates, candidates[group][0])

    def _serves(self, program: _Program, candidates: Mapping[str, list[_Program]]) -> bool:
        # Only what is attached, and what the kernel may preempt, needs a backup.
        if program.backs_up is None:
            return True
        if program.backs_up not in candidates:
            return False
        first = candidates[program.backs_up][0]
        return first.hook in ("fentry", "raw_tp") and first.name not in self._unneeded

    def _demote(self, candidates: dict[str, list[_Program]], refused: _Program) -> None:
        """Go on to the next candidate, also where the same is bound to be refused again.

        That is the same hook on a function of the same kind: in the kernel itself, or in a module (whose functions
        the kernel's own BTF does not mention; 5.10 has no BTF of modules at all).
        """
        in_module = support.functions_absent({p.function for programs in candidates.values() for p in programs})
        for group, programs in list(candidates.items()):
            same = programs[0].hook == refused.hook and (programs[0].function in in_module) == (
                refused.function in in_module
            )
            backup = programs[0].backs_up is not None
            if programs[0].name != refused.name and not (same and (backup or len(programs) > 1)):
                continue
            del programs[0]
            # its function under another name is not a way round what the hook refuses
            while same and len(programs) > 1 and programs[0].hook == refused.hook:
                del programs[0]
            if not programs:
                if not backup:
                    self._miss(group)
                del candidates[group]

    def _candidates(self, hook: str) -> dict[str, list[_Program]]:
        """Group -> its programs, best first; functions that the kernel does not have are not tried."""
        self._open()
        found: dict[str, list[_Program]] = {}
        backups = support.preemptible()
        sections = [f"{program.kind}/{program.function}" for program in self._programs()]
        for program in self._programs():
            if program.backs_up is not None and not backups:
                continue
            if hook == "auto" or program.hook in (hook, "raw_tp", "tp"):
                found.setdefault(program.group, []).append(program)
        several = {
            p.function
            for programs in found.values()
            for p in programs
            # the name behind raw_tp is a tracepoint's, and no function
            if p.hook != "raw_tp" and (len({q.function for q in programs}) > 1 or self._may_have_none(p))
        }
        absent = support.functions_absent(several, of_modules=True)
        self._close_object()
        module_functions().tell_of(sections)
        return {
            group: [p for p in programs if p.function not in absent] or [programs[-1]]
            for group, programs in found.items()
            if not (self._may_have_none(programs[0]) and all(p.function in absent for p in programs))
        }

    def _try(self, chosen: Mapping[str, str]) -> tuple[str | None, int]:
        """Load and attach just these; on failure the name of the refused program and the errno."""
        self._open()
        self._library.log.clear()
        programs = {program.name: program for program in self._programs()}
        wanted = set(chosen.values()) - self._unneeded
        for program in programs.values():
            self._library.bpf_program__set_autoload(program.pointer, program.name in wanted)
        for name, entries in self._sizes.items():
            self._library.bpf_map__set_max_entries(self._map(name), entries)
        preemptible, cpus = support.preemptible(), self._library.libbpf_num_possible_cpus()
        for name, pointer in self._maps():
            if name.endswith(FOR_BACKUPS) and not preemptible:
                self._library.bpf_map__set_max_entries(pointer, 1)
            elif self._library.bpf_map__type(pointer) == MAP_TYPE_LRU_HASH:
                entries = lru_entries(self._library.bpf_map__max_entries(pointer), cpus)
                self._library.bpf_map__set_max_entries(pointer, entries)
        self._write_constants()
        code = -self._library.bpf_object__load(self._object)
        if code:
            return self._program_in_log(chosen), code
        if not self._attach:
            return None, 0
        for program in attach_order(programs[name] for name in chosen.values()):
            if program.name not in wanted:
                continue
            ctypes.set_errno(0)
            link = self._attach_program(program)
            if not link:
                return program.name, ctypes.get_errno()
            self._links.append(link)
            if program.kind == "iter":
                self._iterators[program.group] = int(self._library.bpf_link__fd(link))
            if program.backs_up is None:
                self.hooks[program.group] = program.hook
        self._begin_pairs()
        return None, 0

    def _attach_program(self, program: _Program) -> int:
        if program.returns:
            if self._returns is None:
                self._returns = TracefsReturns()
            link = self._returns.attach(
                program.name,
                program.function,
                lambda event: int(self._library.bpf_program__attach_perf_event(program.pointer, event) or 0),
            )
            if link:
                return link
        # who is told of its place by us has no other way to be attached (libbpf.h, libbpf_register_prog_handler)
        how = "attach_trace" if program.kind in ("fentry", "fexit") else "attach"
        return int(getattr(self._library, f"bpf_program__{how}")(program.pointer) or 0)

    def _program_in_log(self, chosen: Mapping[str, str]) -> str:
        for line in self._library.log:
            if (found := re.search(r"prog '(\w+)'", line)) and found[1] in chosen.values():
                return found[1]
        raise self._refusal("", errno.EINVAL, "auto")

    def _refusal(self, program: str, code: int, hook: str) -> EngineError:
        log = self._library.log
        if (cause := support.of_the_node(code, self._library.log)) is not None:
            return cause
        if code in (errno.EPERM, errno.EACCES) and not any("R0" in line or "insn" in line for line in log):
            return support.permission_denied(self._path.name, code)
        if code in _ABSENT:
            return support.hook_missing(self._path.name.partition(".")[0], program, hook, "\n".join(self._attempts))
        return LoadRefused(
            f"the kernel refused to load {program or self._path.name}: {os.strerror(code)}.",
            why=next((line.strip() for line in reversed(log) if line.strip() and "END PROG" not in line), "")[:200],
            do="kubetrace -v ... shows the verifier's log; please report it with the kernel's version.",
            detail="\n".join(log),
        )

    # -- libbpf's objects -------------------------------------------------------------------------------------------

    def _open(self) -> None:
        ctypes.set_errno(0)
        self._object = self._library.bpf_object__open_file(os.fsencode(self._path), self._open_options())
        if not self._object:
            code = ctypes.get_errno()
            if (cause := support.of_the_node(code, self._library.log)) is not None:
                raise cause
            raise LoadRefused(
                f"libbpf cannot open {self._path.name}: {os.strerror(code)}.", detail="\n".join(self._library.log)
            )
        size = c_uint32()
        data = self._library.btf__raw_data(self._library.bpf_object__btf(self._object), ctypes.byref(size))
        self.btf = Btf(ctypes.string_at(data, size.value))

    def _open_options(self) -> Any:
        """None; or, where the BTF of modules may not be asked for (CAP_SYS_ADMIN), that of the kernel as all there is.

        libbpf up to 1.1 gives the whole object up when it looks for a type among modules and may not. What is then
        not known is what only overlayfs' own structs tell: the image layer of a copied file.
        """
        if self._library.bpf_btf_get_next_id(0, ctypes.byref(c_uint32())) not in (-errno.EPERM, -errno.EACCES):
            return None
        options = _OpenOptions(sz=ctypes.sizeof(_OpenOptions), btf_custom_path=os.fsencode(support.VMLINUX_BTF))
        return ctypes.byref(options)

    def _programs(self) -> list[_Program]:
        found, pointer = [], self._library.bpf_object__next_program(self._object, None)
        while pointer:
            found.append(_Program(pointer))
            pointer = self._library.bpf_object__next_program(self._object, pointer)
        return found

    def _maps(self) -> Iterator[tuple[str, int]]:
        pointer = self._library.bpf_object__next_map(self._object, None)
        while pointer:
            yield self._library.bpf_map__name(pointer).decode(), int(pointer)
            pointer = self._library.bpf_object__next_map(self._object, pointer)

    def _map(self, name: str) -> int:
        for found, pointer in self._maps():
            # libbpf names data sections OBJECT.section, with OBJECT cut to eight characters
            if found == name or (name.startswith(".") and found.endswith(name)):
                return pointer
        raise LoadRefused(f"{self._path.name} has no map {name}.")

    def _write_constants(self) -> None:
        size = c_size_t()
        start = self._library.bpf_map__initial_value(self._map(".rodata"), ctypes.byref(size))
        variables = self.btf.variables(".rodata")
        backed_up = {"backed_up": int(support.preemptible())} if "backed_up" in variables else {}
        for name, value in (self._constants | backed_up).items():
            offset, width = variables[name]
            ctypes.memmove(start + offset, value.to_bytes(width, "little"), width)

    # -- what a loaded object gives ---------------------------------------------------------------------------------

    def map(self, name: str) -> Map:
        """Raises LoadRefused when there is none of that name."""
        pointer = self._map(name)
        return Map(
            int(self._library.bpf_map__fd(pointer)),
            int(self._library.bpf_map__type(pointer)),
            int(self._library.bpf_map__key_size(pointer)),
            int(self._library.bpf_map__value_size(pointer)),
            int(self._library.bpf_map__max_entries(pointer)),
        )

    def _loaded(self) -> Iterator[tuple[Program, int]]:
        for program in self._programs():
            fd = int(self._library.bpf_program__fd(program.pointer))
            if fd >= 0:
                yield program, fd

    def close(self) -> None:
        """Detach and unload; harmless when called twice."""
        for link in self._links:
            self._library.bpf_link__destroy(link)
        self._links.clear()
        self._iterators.clear()
        self._release_all()
        self._close_object()

    def _close_object(self) -> None:
        if self._object:
            self._library.bpf_object__close(self._object)
        self._object = 0

    def __enter__(self) -> LoadedObject:
        """Itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Detach and unload."""
        self.close()
