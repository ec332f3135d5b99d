"""`kubectl kubetrace` as click knows it: what --help, completion and the man page say of it.

Its commands are kubetrace's, with the options that choose nodes in front, and without those that have no meaning in a
debug pod. plugin.py takes the words of a command line apart by these declarations.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from kubetrace.commands import complete, group, help, options

if TYPE_CHECKING:
    from kubetrace.plugin.kubectl import Kubectl

IMAGE_VARIABLE = "KUBETRACE_IMAGE"
# They read files, which are here, or serve for ever, or compile what is here.
NOT_THERE = ("replay", "export", "info", "agent", "run", "completion", "help")
KUBECTL = ("--context", "--kubeconfig", "--cluster", "--user", "--as")
# Where the node's files are is known in a debug pod; what would be written there is deleted with it.
_LEFT_OUT = {"--host-root", "--cri-socket", "--ready-file", "--record"}
_LEFT_OUT_OF_TRACERS = {"--force", "--max-size"}


def commands() -> list[str]:
    """Those that run on a node."""
    return [name for name in help.one_liners() if name not in NOT_THERE]


def kubectl_of(ctx: click.Context, *, timeout_s: int | None = None) -> Kubectl:
    """kubectl with what was given of its own options."""
    from kubetrace.plugin.kubectl import Kubectl

    given = [f"{name}={value}" for name in KUBECTL if (value := ctx.params.get(name[2:].replace("-", "_")))]
    if timeout_s is not None:
        given.append(f"--request-timeout={timeout_s}s")
    return Kubectl(given)


# A shell waits.
_TIMEOUT_S = 4

_Names = Callable[[click.Context], Sequence[str]]


def _asked(names: _Names, *, lists: bool = False) -> Any:
    """Completes by what the cluster says."""

    @functools.wraps(names)
    def completed(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        return complete.words(lambda: names(ctx), lists=lists)(ctx, param, incomplete)

    return completed


def _nodes(ctx: click.Context) -> list[str]:
    return kubectl_of(ctx, timeout_s=_TIMEOUT_S).names("nodes")


def _namespaces(ctx: click.Context) -> list[str]:
    return kubectl_of(ctx, timeout_s=_TIMEOUT_S).names("namespaces")


def _contexts(ctx: click.Context) -> list[str]:
    return kubectl_of(ctx).contexts()


def _pods(ctx: click.Context) -> list[str]:
    """Of the namespace that was given, its names; else of all, with their namespaces."""
    kubectl = kubectl_of(ctx, timeout_s=_TIMEOUT_S)
    given = [name for names in ctx.params.get("namespace") or () for name in names.split(",")]
    if len(given) == 1:
        return kubectl.names("pods", namespace=given[0])
    return kubectl.names("pods", everywhere=True)


def choosing() -> list[click.Parameter]:
    """Which nodes, and how they are reached."""
    return [
        click.Option(
            ["--node"],
            multiple=True,
            metavar="NODE[,NODE...]",
            shell_complete=_asked(_nodes, lists=True),
            help="On these nodes; may be given again.  [default: none; or POD, --pod, -l, --all-nodes is needed]",
        ),
        click.Option(
            ["-l", "--selector"],
            metavar="LABELS",
            help="On the nodes with these labels, as kubectl get nodes -l.  [default: none]",
        ),
        click.Option(["--all-nodes"], is_flag=True, help="On all Linux nodes (100 at most)."),
        click.Option(
            ["--image"],
            metavar="IMAGE",
            help=f"kubetrace's image, which the nodes can pull.  [default: ${IMAGE_VARIABLE}]",
        ),
        click.Option(
            ["--debug-namespace"],
            metavar="NAME",
            shell_complete=_asked(_namespaces),
            help="Where the debug pods are made.  [default: kubectl's namespace]",
        ),
        click.Option(
            ["--context"],
            metavar="NAME",
            shell_complete=_asked(_contexts),
            help="As kubectl's own.  [default: kubectl's]",
        ),
        *(
            click.Option([name], metavar="VALUE", help="As kubectl's own.  [default: kubectl's]")
            for name in KUBECTL
            if name != "--context"
        ),
    ]


def _pod(*, selects: bool) -> click.Option:
    names = " NAME[,NAME...] are further pods to show, as on the node." if selects else ""
    return click.Option(
        ["-p", "--pod"] if selects else ["--pod"],
        multiple=selects,
        metavar="NAMESPACE/POD",
        shell_complete=_asked(_pods),
        help=f"On the node of this pod, and only this pod of it.{names}  [default: all]",
    )


def command_of(name: str) -> click.Command | None:
    """A command as it is on a node, with the plugin's options; None if it is not one."""
    on_node = group.kubetrace.get_command(click.Context(group.kubetrace), name) if name in commands() else None
    if on_node is None:
        return None
    is_tracer = any("--by" in param.opts for param in on_node.params)
    left_out = _LEFT_OUT | (_LEFT_OUT_OF_TRACERS if is_tracer else {"--max-size"})
    params: list[click.Parameter] = []
    if is_tracer:
        params.append(click.Argument(["pod_name"], required=False, metavar="[POD]", shell_complete=_asked(_pods)))
    params += choosing()
    selects = any("--pod" in param.opts for param in on_node.params)
    params.append(_pod(selects=selects))
    for param in on_node.params:
        # -l is the nodes' here
        if left_out & {*param.opts} or {"--pod", "--selector"} & {*param.opts}:
            continue
        if "--namespace" in param.opts:
            param = _completed_by(param, _asked(_namespaces, lists=True))
        elif "--container" in param.opts:
            param = _completed_by(param, lambda *_: [])
        params.append(param)
    return click.Command(
        name,
        params=params,
        short_help=on_node.short_help,
        help=_with_kubectl(on_node.help or "", name),
        context_settings=options.SETTINGS,
    )


def _completed_by(param: click.Parameter, names: Any) -> click.Option:
    """An option whose names are those of the cluster, not of this machine's files."""
    assert isinstance(param, click.Option)
    return click.Option(
        param.opts, multiple=True, metavar=param.metavar, help=param.help, shell_complete=names, default=None
    )


def _with_kubectl(text: str, name: str) -> str:
    """A command's help with examples that begin with kubectl kubetrace."""
    example = re.compile(rf"^  kubetrace {name}\b(.*?)(?: {{2,}}(\S.*))?$", re.MULTILINE)
    # one that shows what is not done there
    text = re.sub(rf"^  kubetrace {name}\b.*(?:{'|'.join(_LEFT_OUT | _LEFT_OUT_OF_TRACERS)}).*\n", "", text, flags=re.M)

    def command(found: re.Match[str]) -> str:
        given = found[1].rstrip()
        # FILE stays the last word of record
        words = f"{given} --node NODE" if name == "record" else f" --node NODE{given}"
        return f"  kubectl kubetrace {name}{words}"

    width = max((len(command(found)) for found in example.finditer(text)), default=0)
    return example.sub(lambda found: f"{command(found):<{width}}  {found[2] or ''}".rstrip(), text)


class _Plugin(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return commands()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return command_of(cmd_name)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["COMMAND", "[POD]", "[OPTION...]"]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        texts = help.one_liners()
        with formatter.section("Commands"):
            formatter.write_dl([(name, texts[name]) for name in commands()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        texts = help.one_liners()
        return list(complete.commands({name: texts[name] for name in commands()}, incomplete))


_HELP = """Run kubetrace on nodes of the cluster, each in a debug pod that is deleted at the end.

That is what `kubectl debug node/NODE --profile=sysadmin` does. Several nodes run side by side and are shown as one
table with a NODE column; one that fails is a row with its error. All other options are those of kubetrace COMMAND; see
kubectl kubetrace COMMAND --help.

\b
Examples:
  kubectl kubetrace copyup --node worker-3
  kubectl kubetrace copyup web-0 -n shop --events
  kubectl kubetrace writes --all-nodes --by pod
  kubectl kubetrace cgroups -l pool=batch -o json -d 60 > cgroups.jsonl
  kubectl kubetrace record copyup writes node.ktrace --node worker-3 -d 60
  kubectl kubetrace doctor --node worker-3
"""

kubectl_kubetrace = _Plugin(
    "kubectl kubetrace",
    params=[
        *choosing(),
        _pod(selects=False),
        click.Option(["--version"], is_flag=True, help="Show the version and exit."),
        *options.verbose(),
    ],
    help=_HELP,
    context_settings=options.SETTINGS,
)


def completions(words: Sequence[str]) -> list[str]:
    """What kubectl is told (kubectl_complete-kubetrace): a completion a line, with its help behind a tab.

    The last line is a colon and cobra's directive (its ShellCompDirective): 4 is no files, 0 files too. `words` are
    those behind `kubectl kubetrace`, the last of them the one that is typed.
    """
    from click.shell_completion import ShellComplete

    shell = ShellComplete(kubectl_kubetrace, {"obj": list(words[:-1])}, "kubectl kubetrace", "")
    found = shell.get_completions(list(words[:-1]), words[-1] if words else "")
    lines = [f"{item.value}\t{item.help}" if item.help else str(item.value) for item in found if item.type == "plain"]
    return [*lines, ":0" if any(item.type != "plain" for item in found) else ":4"]
