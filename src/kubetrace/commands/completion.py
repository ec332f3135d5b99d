"""kubetrace completion: the script by which a shell completes commands, options and the names of the node's pods.

The scripts and the protocol are click's (click.shell_completion): the shell runs kubetrace with its words in the
environment, and what is printed are completions. `register` puts right what goes wrong with lists of names.
"""

from __future__ import annotations

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
)

from kubetrace.commands import help, options


class _WithWords(ShellComplete):
    """Lets completions see the line: of one that ends with an option click has no arguments."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        self.ctx_args = {**self.ctx_args, "obj": args}
        return super().get_completions(args, incomplete)


class _Bash(_WithWords, BashComplete):
    """Bash breaks a word at = (COMP_WORDBREAKS): --namespace=sh comes as three."""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        return [word for word in args if word != "="], "" if incomplete == "=" else incomplete


class _Whole(_WithWords):
    """Zsh and fish put what is printed in place of the whole word, of --namespace=sh too."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        found = super().get_completions(args, incomplete)
        option, equals, _ = incomplete.partition("=")
        if not equals or not option.startswith("--"):
            return found
        return [CompletionItem(f"{option}={item.value}", type=item.type, help=item.help) for item in found]


class _Zsh(_Whole, ZshComplete):
    """As click's."""


class _Fish(_Whole, FishComplete):
    """A value may hold commas: it is split off at the first."""

    source_template = FishComplete.source_template.replace('split ","', 'split -m 1 ","')


SHELLS = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def register() -> None:
    """Let click use these."""
    for name, shell in SHELLS.items():
        add_completion_class(shell, name)


def _run(shell: str) -> None:
    register()
    made = get_completion_class(shell)
    assert made is not None
    root = click.get_current_context().find_root()
    click.echo(made(root.command, {}, "kubetrace", help.COMPLETION).source())


_HELP = """Print the script by which SHELL completes kubetrace: commands, options, columns, and this node's pods.

The names of namespaces, pods and containers are read off the node's files (/var/log/pods), whatever the options of the
line are so far: after -n shop -p comes a pod of shop.

\b
For this shell:
  source <(kubetrace completion bash)
  source <(kubetrace completion zsh)
  kubetrace completion fish | source

\b
For every new one:
  kubetrace completion bash > /etc/bash_completion.d/kubetrace        (with the package bash-completion)
  kubetrace completion zsh  > /usr/share/zsh/vendor-completions/_kubetrace
  kubetrace completion fish > ~/.config/fish/completions/kubetrace.fish

kubectl kubetrace is completed through kubectl's own script (kubectl completion --help), by kubectl_complete-kubetrace
in PATH.
"""

command = click.Command(
    "completion",
    params=[click.Argument(["shell"], type=options.OneOf(list(SHELLS)), metavar="|".join(SHELLS))],
    callback=_run,
    help=_HELP,
    context_settings=options.SETTINGS,
)
