"""Set up the environment of book and tests: environment.py FOLDER. Runs under any Python, old ones too, to say so.

uv installs, and pip where uv cannot. TORCH names another build of PyTorch, in pip's own words.
"""

import os
import shlex
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOG = os.path.join(ROOT, "_build", "log", "setup.log")
LAST_LINES = 5


def main(folder):
    if sys.version_info < (3, 11):  # noqa: UP036 (Pythons older than the project come here)
        sys.exit(
            f"savae-lite needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}. "
            "Name another: make PYTHON=python3.12"
        )
    os.chdir(ROOT)
    os.makedirs(os.path.dirname(LOG), exist_ok=True)
    print(f"Setting up {folder} with Python {sys.version.split()[0]}", flush=True)
    python = os.path.join(folder, "bin", "python")
    torch = shlex.split(os.environ.get("TORCH") or "-r requirements-torch.txt")
    with open(LOG, "w", encoding="utf-8") as log:
        step("a new environment", [[sys.executable, "-m", "venv", "--clear", folder]], log, VENV)
        pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
        step("uv", [[*pip, "--require-hashes", "-r", write_lock_of("uv", folder)]], log, NETWORK)
        uv = [os.path.join(folder, "bin", "uv"), "pip", "install", "--python", os.path.abspath(python), *find_links()]
        for title, what in [
            ("packages", ["--require-hashes", "--no-deps", "-r", "requirements.txt"]),
            ("PyTorch", torch),
            ("savae-lite itself", ["--no-deps", "--no-build-isolation", "-e", "."]),
        ]:
            step(title, [uv + what, pip + what], log, NETWORK)
        step("a check of what fits what", [[python, "-m", "pip", "check"]], log, "Run make clean and try again.")


VENV = "Python's venv is missing or broken; on Debian and Ubuntu: apt install python3-venv."
NETWORK = "Is there a network, and room on the disk? Then the same command goes on."


def step(title, commands, log, remedy):
    """Run the first of the commands that works, and say for how long it has been at it."""
    started = time.monotonic()
    for command in commands:
        log.write("\n$ " + " ".join(command) + "\n")
        log.flush()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if sys.stdout.isatty():
                    print(f"\r  {title} … {time.monotonic() - started:.0f} s", end="", flush=True)
        finally:
            if process.poll() is None:
                process.kill()
        if not process.returncode:
            print(f"\r  {title} … {time.monotonic() - started:.0f} s", flush=True)
            return
    with open(LOG, encoding="utf-8", errors="replace") as said:
        last = "".join(said.readlines()[-LAST_LINES:])
    sys.exit(f"\r  {title} … failed\n{last}All that was said: {os.path.relpath(LOG, ROOT)}. {remedy}")


def write_lock_of(package, folder):
    """The lines of the lock that are about one package, as a file of their own."""
    with open("requirements.txt", encoding="utf-8") as lock:
        lines = lock.read().split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith(package + "=="))
    end = next(number for number in range(start, len(lines)) if not lines[number].endswith("\\"))
    path = os.path.join(folder, package + ".txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines[start : end + 1]) + "\n")
    return path


def find_links():
    """uv does not read pip's configuration; the folders of wheels that a variable names it is told."""
    return [part for place in os.environ.get("PIP_FIND_LINKS", "").split() for part in ("--find-links", place)]


if __name__ == "__main__":
    main(sys.argv[1])
