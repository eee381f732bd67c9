#!/usr/bin/env python3
"""Changes one line of the gateway for a statement of the standard, and runs the tests that name the statement: one of
them must turn red. lines.tsv has the changes: version, id, file, what stands there, what stands there instead (`\\n` is
a new line); the 30 ids are `lines.py --draw`, drawn at random with seed 6 from all that tests name. Further lines name
their test themselves, as `package test-binary test`.

Works in a checkout of its own (MUTANTS_DIR, made with `git worktree add`), builds into MUTANTS_TARGET_DIR. ONLY=id runs
one. Prints a table and fails when a change is not seen.
"""

import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SEED, DRAWN = 6, 30


def named_tests(root):
    """Tests by (version, id), as `tests/conformance/tests/mqtt/statements.rs` reads them."""
    found = {}
    for path in sorted((root / "tests/conformance/tests/mqtt").glob("*.rs")):
        named = []
        for line in path.read_text().splitlines():
            if said := re.match(r"/// (5\.0|3\.1\.1): (.*)", line):
                named += [(said[1], one) for one in said[2].split()]
            if test := re.match(r"fn (\w+)\(", line):
                for key in named:
                    found.setdefault(key, []).append(f"{path.stem}::{test[1]}")
                named = []
    return found


def cargo(checkout, target, package, binary, tests):
    command = ["cargo", "test", "-p", package, "--test", binary, "--", "--exact", *tests]
    # Built again for every line: quick to build, not quick to run.
    quick = {"CARGO_PROFILE_DEV_OPT_LEVEL": "0", "CARGO_PROFILE_DEV_DEBUG": "0", "CARGO_INCREMENTAL": "1"}
    env = dict(os.environ, **quick, CARGO_TARGET_DIR=target, RUST_BACKTRACE="0")
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def judge(code, said):
    red = sorted(set(re.findall(r"^test (\S+) \.\.\. FAILED$", said, re.M)))
    if red:
        return True, " ".join(red)
    if re.search(r"^error", said, re.M) and "test result" not in said:
        return False, "does not build: " + next(l for l in said.splitlines() if l.startswith("error"))
    return False, "**nobody**" if code == 0 else "no result"


def main():
    tests = named_tests(ROOT)
    if "--draw" in sys.argv:
        random.seed(SEED)
        for version, statement in sorted(random.sample(sorted(tests), DRAWN)):
            print(version, statement, *tests[version, statement], sep="\t")
        return
    checkout = pathlib.Path(os.environ.get("MUTANTS_DIR") or tempfile.mkdtemp(prefix="mutants-"))
    target = os.environ.get("MUTANTS_TARGET_DIR", str(ROOT / "target/mutants"))
    if not (checkout / "Cargo.toml").exists():
        subprocess.run(["git", "worktree", "add", "--detach", str(checkout), "HEAD"], cwd=ROOT, check=True)
    rows = [line.split("\t") for line in (HERE / "lines.tsv").read_text().splitlines() if line and line[0] != "#"]
    print("| statement | file | change | turned red |\n|---|---|---|---|", flush=True)
    missed = 0
    for version, statement, file, old, new in rows:
        if os.environ.get("ONLY", statement) != statement:
            continue
        if (version, statement) in tests:
            where = ("conformance", "mqtt", tests[version, statement])
        else:
            package, binary, test = version.split(" ")
            where = (package, binary, [test])
        path = checkout / file
        before = path.read_text()
        old, new = old.replace("\\n", "\n"), new.replace("\\n", "\n")
        if before.count(old) != 1:
            sys.exit(f"{statement}: {file} has it {before.count(old)} times: {old!r}")
        path.write_text(before.replace(old, new))
        try:
            seen, by = judge(*cargo(checkout, target, *where))
        finally:
            path.write_text(before)
        missed += not seen
        label = f"{version} {statement}" if (version, statement) in tests else statement
        shown = " ".join(new.split()).replace("|", "\\|")
        print(f"| {label} | `{file}` | `{shown}` | {by} |", flush=True)
    # Without a change all of them pass: what was seen was seen because of the change.
    wanted = {}
    for version, statement, *_ in rows:
        if os.environ.get("ONLY", statement) == statement:
            known = tests.get((version, statement))
            package, binary, test = ("conformance", "mqtt", None) if known else version.split(" ")
            wanted.setdefault((package, binary), set()).update(known or [test])
    for (package, binary), names in wanted.items():
        code, said = cargo(checkout, target, package, binary, sorted(names))
        print(f"\nWithout a change, {package}: " + re.search(r"test result: .*", said)[0], flush=True)
        missed += code != 0
    sys.exit(1 if missed else 0)


main()
