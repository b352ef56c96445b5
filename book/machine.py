"""How much goes on side by side: what cores and memory bear, or what JOBS says. As a program it prints the number."""

import os
import sys

GIGABYTES_A_JOB = 3  # a chapter, or a worker of the tests, with torch


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def jobs() -> int:
    if asked := os.environ.get("JOBS"):
        if not asked.isdecimal() or int(asked) < 1:
            sys.exit(f"JOBS must say how much may run side by side, at least 1; got {asked}. Leave it out.")
        return int(asked)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(cores(), int(memory / GIGABYTES_A_JOB)))


if __name__ == "__main__":
    print(jobs())
