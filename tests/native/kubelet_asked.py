"""What tests/native/kubelet_node.py asks for, and test_kubelet_native.py looks for."""

PORT, CLOSED_PORT = 8080, 8099
# A command line that a terminal would obey.
HOSTILE = ["sh", "-c", "exit 5", "\x1b[2J\u202e$(reboot)\n"]
# Its own times (times(1p)) are another mouth for what it used: the shell's, then its children's.
BURN = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; times"
