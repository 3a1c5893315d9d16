"""Run a command and print its peak memory in KiB: `peak.py SECONDS COMMAND...`; run with `python -I -S`.

A process's ru_maxrss starts with the memory of the one that started it, as vfork() shares that until exec. So the
one that starts it must be smaller than what is to be measured, and this is it: no imports to speak of.
"""

from __future__ import annotations

import os
import signal
import sys

seconds, command = int(sys.argv[1]), sys.argv[2:]
null = os.open(os.devnull, os.O_RDWR)
pid = os.posix_spawn(
    command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
)
signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
signal.alarm(seconds)
_, status, usage = os.wait4(pid, 0)
if os.waitstatus_to_exitcode(status) not in (0, 1, 2):  # pmuconf's statuses for a run without errors
    sys.exit(f"{' '.join(command)}: ended with {os.waitstatus_to_exitcode(status)}")
print(usage.ru_maxrss)
