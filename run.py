#!/usr/bin/env python3
"""Set up metakit and run it, with nothing but Python 3.11 to 3.13.

    python3 run.py lab              open the course in JupyterLab   (--port N, --no-browser)
    python3 run.py test             check everything                (words after it go to pytest: test -k maml)
    python3 run.py train sinusoid   the same jobs in the terminal   (any other words: python -m metakit ...)
    python3 run.py slides           build the decks into slides/build/     (names of decks after it: only these)
    python3 run.py student FOLDER   write the notebooks without solutions  (or: instructor FOLDER, nbgrader FOLDER)
    python3 run.py setup            only make .venv and install into it

Each of them makes .venv when it is missing or out of date; nothing is installed outside this folder.
"""

# Any Python 3 must be able to read this file, to say kindly that it is too old: no newer syntax, no newer imports.
import argparse
import collections
import hashlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "metakit-stamp"
UNFINISHED = "unfinished"
EDITIONS = ("student", "instructor", "nbgrader")
FIRST_LESSON = "notebooks/00_start_here.ipynb"
OLDEST, NEWEST = (3, 11), (3, 13)
NETWORK_WORDS = ("connection", "name resolution", "getaddrinfo", "timed out", "retries", "(from versions: none)")


class Failure(Exception):
    """One sentence for the reader, and the end of the run."""


def main(words):
    """Run the command that the words name; return its exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not words or words[0] in ("-h", "--help", "help"):
        print(__doc__.strip())
        return 0
    try:
        options = lab_options(words[1:]) if words[0] == "lab" else None
        edition = edition_command(words) if words[0] in EDITIONS else None
        set_up()
        if words[0] == "setup":
            return 0
        if options:
            return lab(options)
        if edition:
            return child(edition)
        if words[0] == "slides":
            return child([PYTHON, "slides/build.py", *words[1:]])
        if words[0] == "test":
            return test(words[1:])
        return child([PYTHON, "-m", "metakit", *words])
    except Failure as failure:
        return stop(failure, 1)
    except OSError as error:
        return stop(f"The system refused a step: {error}.", 1)
    except KeyboardInterrupt:
        return stop("Stopped.", 130)


def stop(sentence, status):
    """Say the sentence last, after everything printed before it."""
    sys.stdout.flush()
    print(sentence, file=sys.stderr)
    return status


# ------------------------------------------------------------------------------------------------------ set-up


def set_up():
    """Bring .venv up to date; when it already is, that is one hash and no more."""
    check_python()
    wanted = stamp()
    if PYTHON.exists() and read_stamp() == wanted:
        return
    started = time.time()
    if read_stamp() == UNFINISHED or not usable():
        make_venv()
    install()
    STAMP.write_text(wanted)
    print(f"Ready after {time.time() - started:.0f} s.", flush=True)


def check_python():
    """Refuse a Python that the pinned packages are not made for, or one without venv."""
    version = tuple(sys.version_info[:2])
    if not OLDEST <= version <= NEWEST:
        raise Failure(
            "metakit needs Python 3.11, 3.12 or 3.13, and this is {}.{}: "
            "start run.py with one of those, for example 'python3.11 run.py'.".format(*version)
        )
    try:
        import ensurepip  # noqa: F401  Debian leaves this one out
        import venv  # noqa: F401
    except ImportError:
        raise Failure(
            "This Python has no venv module: on Debian or Ubuntu run "
            "'sudo apt install python3-venv' (or python{}.{}-venv), then the same command again.".format(*version)
        ) from None


def stamp():
    """Hash what the environment depends on: the requirements, the Python, and where the folder lies."""
    parts = [str(ROOT).encode(), repr(sys.version_info[:2]).encode()]
    for name in ("pyproject.toml", "constraints.txt"):
        # Universal newlines: the same file checked out on Windows is the same file.
        parts.append((ROOT / name).read_text(encoding="utf-8").encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def read_stamp():
    """Return what the last set-up left behind, or None."""
    return STAMP.read_text().strip() if STAMP.exists() else None


def usable():
    """Tell whether .venv holds a pip and the Python that runs this."""
    probe = "import pip, sys; print(tuple(sys.version_info[:2]))"
    try:
        answer = subprocess.check_output([str(PYTHON), "-c", probe], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return False
    return answer.decode().strip() == repr(tuple(sys.version_info[:2]))


def make_venv():
    """Make .venv anew, emptying a half-made one."""
    print("Making .venv ...", flush=True)
    # Started from inside .venv, the Python that runs this would be emptied away: take the one it was made from.
    base = getattr(sys, "_base_executable", None) or sys.executable
    made = subprocess.run(
        [base, "-m", "venv", "--clear", str(VENV)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if made.returncode:
        print(made.stdout.strip())
        raise Failure("Python could not make the folder .venv; its words are above.")
    STAMP.write_text(UNFINISHED)


def install():
    """Install the package, the lab, the slides and the tests into .venv, showing pip's last words if that fails."""
    print("Installing the packages into .venv (the first time takes a few minutes) ...", flush=True)
    before = read_stamp() or "none"
    STAMP.write_text(UNFINISHED)
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--no-input"]
    command += ["-c", "constraints.txt", "-e", ".[lab,slides,test]"]
    sys.stdout.reconfigure(errors="replace")  # pip's signs may be none of this terminal's
    last = collections.deque(maxlen=12)
    offline = False
    pip = subprocess.Popen(
        command, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    try:
        for line in pip.stdout:
            last.append(line.rstrip())
            offline = offline or any(word in line.lower() for word in NETWORK_WORDS)
            show_progress(line.strip())
    except BaseException:
        pip.terminate()
        raise
    finally:
        pip.stdout.close()
        wait(pip)
        show_progress("")
    if pip.returncode:
        # pip undoes what it gives up on, so an environment that worked before still does: keep it.
        STAMP.write_text(before)
        print("\n".join(last))
        if offline:
            raise Failure("Set-up needs the network once, and pip could not reach its index: connect and run it again.")
        raise Failure("pip could not install the packages; its last words are above: mend that and run it again.")


def show_progress(line):
    """Keep pip's present step on one line of a terminal."""
    if sys.stdout.isatty():
        sys.stdout.write("\r\033[K" + line[:78])
        sys.stdout.flush()


# ---------------------------------------------------------------------------------------------------- commands


def wait(process):
    """Wait for a child to its end: Ctrl-C reaches it too, and it may still have things to put away."""
    interrupted = False
    while process.returncode is None:
        try:
            process.wait()
        except KeyboardInterrupt:
            interrupted = True
        except SystemExit:
            process.terminate()
            process.wait()
            raise
    if interrupted:
        raise KeyboardInterrupt


def child(command, **environment):
    """Run a command in this folder and return its exit status; Ctrl-C is raised once it has ended."""
    process = subprocess.Popen([str(word) for word in command], cwd=str(ROOT), env=dict(os.environ, **environment))
    wait(process)
    return process.returncode


def lab_options(words):
    """Read the options of `lab`, before minutes go into the set-up."""
    parser = argparse.ArgumentParser(prog="run.py lab", description="Open the course in JupyterLab.")
    parser.add_argument("--port", type=int, help="default: the first free one from 8888 on")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    options = parser.parse_args(words)
    if options.port is None:
        options.port = next((port for port in range(8888, 8988) if is_free(port)), None)
        if options.port is None:
            raise Failure("Ports 8888 to 8987 are all in use: name a free one with --port.")
    elif not 1 <= options.port <= 65535:
        raise Failure(f"A port is a number from 1 to 65535, and {options.port} is not.")
    elif not is_free(options.port):
        raise Failure(f"Port {options.port} is in use: name another one with --port, or none.")
    return options


def is_free(port):
    """Try the port, as the server will."""
    with socket.socket() as probe:
        if os.name != "nt":  # there it would mean something else
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def lab(options):
    """Open JupyterLab at the first lesson, on this machine alone, behind Jupyter's own token."""
    command = [PYTHON, "-m", "jupyterlab", "--ServerApp.root_dir=" + str(ROOT), "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.port={options.port}", "--ServerApp.port_retries=0"]
    command += ["--LabApp.default_url=/lab/tree/" + FIRST_LESSON, "--ServerApp.answer_yes=True"]
    if options.no_browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    settings = [str(ROOT / ".jupyter"), os.environ.get("JUPYTER_CONFIG_PATH")]
    try:
        return child(command, JUPYTER_CONFIG_PATH=os.pathsep.join(filter(None, settings)))
    except KeyboardInterrupt:  # the ordinary way to leave
        return 0


def edition_command(words):
    """Read the folder of `student` and its kin; it is meant from where the reader stands."""
    if len(words) != 2:
        raise Failure(f"'{words[0]}' takes one folder to write into, for example 'python3 run.py {words[0]} handout'.")
    return [PYTHON, "notebooks/editions.py", words[0], os.path.abspath(words[1])]


def test(words):
    """Run every check to its end and sum them up; words go to pytest alone."""
    pytest = [PYTHON, "-m", "pytest"]
    if words:
        return child(pytest + words)
    nbval = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=120", "notebooks"]
    # As many at once as there are cores, each with one thread: more would wait for each other.
    shared, one_thread = ["-n", "auto", "--dist", "loadfile"], {"OMP_NUM_THREADS": "1"}
    each = ["-n", "auto", "--dist", "loadgroup"]  # notebooks one by one, the decks by one worker
    browser = ["tests/test_browser.py", "tests/test_slides.py"]
    no_network = {"PYTHONPATH": str(ROOT / "tests" / "no_network")}
    parts = [
        ("lint", [PYTHON, "-m", "ruff", "check"], {}),
        ("format", [PYTHON, "-m", "ruff", "format", "--check"], {}),
        ("types", [PYTHON, "-m", "mypy"], {}),
        ("unit tests, doctests", [*pytest, "-q", *shared, "-m", "not browser"], one_thread),
        ("notebooks", [*pytest, "-q", *shared, *nbval], dict(one_thread, **no_network)),
        ("browser", [*pytest, "-q", *each, "-m", "browser", *browser], one_thread),
    ]
    lines, failed = [], 0
    for name, command, environment in parts:
        print(f"\n--- {name}", flush=True)
        started = time.time()
        status = child(command, **environment)
        failed += bool(status)
        lines.append("{:<22}{:<8}{:>7.1f} s".format(name, "FAILED" if status else "passed", time.time() - started))
    print("\n" + "\n".join(lines))
    print(f"{failed} of {len(parts)} parts failed." if failed else "All passed.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
