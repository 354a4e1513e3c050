"""The learner gives way to the robot where both want the same cores."""

import os
import threading
from pathlib import Path

NICENESS = 10  # of the learner's threads; needs no rights, and cannot be taken back without


def give_way(*but: threading.Thread | None) -> int:
    """Makes every thread of this process nicer than the robot's process, but those given; returns how many.

    A child inherits the niceness of the thread that starts it: the supervisor's thread, which does, must be given.
    Linux only: elsewhere a process has one niceness, and 0 is returned.
    """
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        return 0
    spared = {thread.native_id for thread in but if thread is not None}
    made = 0
    for task in map(int, os.listdir(tasks)):
        if task not in spared:
            try:
                os.setpriority(os.PRIO_PROCESS, task, max(NICENESS, os.getpriority(os.PRIO_PROCESS, task)))
            except ProcessLookupError:  # a thread that has just ended
                continue
            made += 1
    return made
